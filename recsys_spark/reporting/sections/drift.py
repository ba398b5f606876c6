"""How far the day's values are from those of the reference day."""

from __future__ import annotations

from recsys_spark.reporting.html import Fragment, empty, side_by_side, text, together
from recsys_spark.reporting.night import Night
from recsys_spark.reporting.plots import STATUS, Bar, bars, columns

TITLE = "Feature drift"


def drift(night: Night) -> Fragment:
    """Return the PSI of every watched column with its limits, and the values' shares on both days."""
    judged = [g for g in night.tracked.gates if g.kind in ("drift", "mix")]
    if not night.drift and not any(g.value is not None for g in judged):
        why = judged[0].text if judged else "the night's gates are not known"
        return empty(f"Nothing to hold the day against: {why}.")
    plots = []
    if judged:
        limits = {
            name: bound for g in judged for name, bound in (("warn", g.warn), ("stop", g.stop)) if bound is not None
        }
        rows = [
            Bar("types, trailing days" if g.kind == "mix" else g.gate.split(".", 1)[1], g.value,
                STATUS.get(g.status, "var(--quiet,#5b6470)"), g.status if g.value is None else f"{g.value:.3f}")
            for g in judged
        ]  # fmt: skip
        plots.append(bars(rows, "population stability index", "PSI by column:", limits))
    plots += [columns(s.labels, s.days, s.column, "Shares of the events on each day:") for s in night.drift]
    against = f" Held against {night.reference}." if night.reference else ""
    return together(text(f"0.1 counts as a change, 0.25 as a large one.{against}"), side_by_side(*plots))
