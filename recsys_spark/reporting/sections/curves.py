"""How the models of the night learnt."""

from __future__ import annotations

from recsys_spark.reporting.html import Fragment, empty, side_by_side, text, together
from recsys_spark.reporting.night import Night
from recsys_spark.reporting.plots import lines

TITLE = "Learning curves"
_AXES = {
    "epoch/loss": "training loss",
    "epoch/valid_ndcg_at_10": "validation NDCG@10",
    "epoch/valid_gauc": "validation GAUC",
}


def curves(night: Night) -> Fragment:
    """Return a plot for each figure of each model that logged its steps."""
    plots = []
    for model, figures in night.tracked.curves.items():
        for name, points in figures.items():
            step, _, figure = name.partition("/")
            axis = _AXES.get(name, figure.replace("_", " "))
            plots.append(lines({model: points}, f"{model}: {axis}", f"By {step}:", step, axis,
                               from_zero=name in _AXES, marked=len(points) <= 40))  # fmt: skip
    if not plots:
        return empty("No model of this night logged the steps of its training.")
    return together(
        text("A model's weights are those of the epoch that was best on the validation part."), side_by_side(*plots)
    )
