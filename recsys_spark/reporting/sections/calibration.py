"""Whether what was promised happened: probabilities of the rankers, and ranks of all models."""

from __future__ import annotations

from recsys_spark.reporting.html import Fragment, empty, number, percent, side_by_side, table, text, together
from recsys_spark.reporting.night import Night
from recsys_spark.reporting.plots import lines

TITLE = "Calibration"


def calibration(night: Night) -> Fragment:
    """Return how often each rank was right, and a reliability diagram for each label of each ranker."""
    hits = {name: night.lists.hits[name] for name in night.measured.models if name in night.lists.hits}
    ranks = {name: [(float(r), share) for r, share in enumerate(of, start=1)] for name, of in hits.items()}
    plots, parts = [], []
    if ranks:
        plots.append(lines(ranks, "how often a rank is right", "Share of users whose item is held out, by rank:",
                           "rank", "share of users"))  # fmt: skip
    for found in night.reliability:
        filled = found.bins.rows > 0
        points = list(zip(found.bins.predicted[filled].tolist(), found.bins.happened[filled].tolist(), strict=True))
        plots.append(lines({found.model: points}, f"{found.model}: chance of a {found.label}",
                           "What happened, by what was predicted:", "predicted", "happened", diagonal=True,
                           marked=True))  # fmt: skip
    if night.reliability:
        rows = [
            [r.model, r.label, number(r.rows), percent(r.share), number(r.error), number(r.log_loss)]
            for r in night.reliability
        ]
        head = ["ranker", "label", "impressions", "happened", "calibration error", "log-loss"]
        parts.append(table(head, rows, "calibration of the rankers on the test impressions", left=2))
    else:
        parts.append(empty("No model of this night predicts a probability: it trained no ranker."))
    if not plots:
        return together(*parts)
    return together(
        text("A list is in order where its first ranks are right most often. Scores of retrieval models are no "
             "probabilities; those of rankers are, and lie on the diagonal where they are calibrated."),
        side_by_side(*plots), *parts,
    )  # fmt: skip
