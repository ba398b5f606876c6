"""The page of a night: one HTML file that says what was measured, decided, published, and to whom.

Everything on it was written down by the night's stages, in tables and in MLflow, so that the page of an older night can
still be made. It needs no script and no network.

| file | holds |
|---|---|
| `night.py` | what the page shows, as plain values |
| `tracked.py` | what MLflow knows of the night: the decision, the gates, the learning curves |
| `lists.py` | what the models' lists have in common with the log: hits by rank, exposure, churn |
| `calibration.py` | what the rankers of the night promised, and what happened |
| `drift.py` | how the day's values are spread, beside the reference day's |
| `people.py` | twenty users with their histories and lists, and whom a page names |
| `html.py`, `plots.py` | tables and figures |
| `sections/` | one file for each section: from the night to HTML |
| `page.py`, `page.html`, `page.css` | the whole |
"""
