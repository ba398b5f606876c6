"""The search for a model's parameters: a space, trials in it, and what was found.

| file | holds |
|---|---|
| `space.py` | from the section `tune` to distributions, checked against the model's own parameters |
| `trial.py` | fitting a model with the parameters of a trial, and its NDCG@10 on the valid part |
| `search.py` | which trials, in what order, and which are ended early |
| `report.py` | the table, the picture and the YAML of a search |
"""
