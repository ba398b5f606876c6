"""Whom and what the models serve worse: NDCG@10 by slice."""

from __future__ import annotations

import math

from recsys_spark.reporting.html import Fragment, empty, interval, side_by_side, table, text, together
from recsys_spark.reporting.night import Night
from recsys_spark.reporting.plots import Dot, dots
from recsys_spark.tracking.promotion import METRIC

TITLE = "Slices"
_DRAWN = 3


def slices(night: Night) -> Fragment:
    """Return NDCG@10 of every model in every slice, and a plot of the best models'."""
    models = night.measured.models
    of = {name: night.measured.slices.get(name, {}).get("test", {}) for name in models}
    least = night.min_slice_users
    names = sorted({s for found in of.values() for s, i in found.items() if i.n >= least}, key=_order)
    if not names:
        return empty(f"No slice has {least} users.")
    sizes = {s: max(found[s].n for found in of.values() if s in found) for s in names}
    rows = [[s, f"{sizes[s]:,}", *(interval(of[name].get(s)) for name in models)] for s in names]
    plots = [
        dots([Dot(s, i.mean, i.low, i.high, n) if (i := of[name].get(s)) else Dot(s, math.nan, math.nan, math.nan)
              for s in names], name, f"{METRIC} of {name} by slice, with its interval:")
        for n, name in enumerate(models[:_DRAWN])
    ]  # fmt: skip
    return together(
        text(f"{METRIC} on test of slices with at least {least} users. Slices of items hold a list against those "
             "held-out items that are such."),
        side_by_side(*plots),
        table(["slice", "users", *models], rows, f"{METRIC} by slice and model"),
    )  # fmt: skip


def _order(name: str) -> tuple[str, float, str]:
    """Sort slices by what they slice, then by the number that their value begins with."""
    what, _, value = name.partition("=")
    first = value.replace("+", "-").split("-")[0].split(" ")[0]
    return what, float(first) if first.isdigit() else -1.0, value
