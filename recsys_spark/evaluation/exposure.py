"""How the lists of all users spread over the catalogue, with intervals: coverage, Gini index and entropy.

These are no means over users, so that the bootstrap of means says nothing of them, and drawing users again would show
fewer items than there were. Their intervals come from the jackknife over G groups of users (Kott 2001, "The
delete-a-group jackknife"): with the figure t_g of all users but group g, `variance = (G - 1) / G sum (t_g - mean)^2`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from scipy import stats

from recsys_spark.evaluation.bootstrap import Interval
from recsys_spark.evaluation.metrics.beyond_accuracy import coverage_at_k, gini, shannon_entropy

GROUPS = 20
"""Of users, by a hash of their id. With fewer users than twice that there is no interval."""

Counts = NDArray[np.int64]


def _coverage(counts: Counts) -> float:
    return coverage_at_k(int((counts > 0).sum()), len(counts))


FIGURES: dict[str, tuple[Callable[[Counts], float], float]] = {
    "coverage": (_coverage, 1.0),
    "gini": (gini, 1.0),
    "entropy": (shannon_entropy, float("inf")),
}
"""What is made of the exposure counts of the whole catalogue, and the largest value it can have."""


def jackknife(counts: Counts, figure: Callable[[Counts], float], confidence: float, n: int, most: float) -> Interval:
    """Return a figure of all users' exposures with its jackknife interval, cut to what is possible.

    Args:
        counts: lists with each item, by group of users and item, `[G, n_items]`.
        n: users; below 2 G the interval is NaN.
        most: the largest value that there is; the least is 0.
    """
    whole = counts.sum(axis=0)
    value = figure(whole)
    if n < 2 * len(counts):
        return Interval(value, float("nan"), float("nan"), n)
    without = np.array([figure(whole - group) for group in counts])
    groups = len(without)
    error = float(np.sqrt((groups - 1) / groups * np.square(without - without.mean()).sum()))
    reach = float(stats.t.ppf((1 + confidence) / 2, groups - 1)) * error
    return Interval(value, max(0.0, value - reach), min(most, value + reach), n)


def exposure_intervals(
    users: DataFrame, catalogue: int, ks: list[int], confidence: float
) -> dict[tuple[str, str, str], Interval]:
    """Measure every figure at every cut-off, by model, split and name (`gini@10`).

    Args:
        users: rows of `USER_METRICS`.
        catalogue: items that could have been recommended. A champion of another night may know others, and then more
            of them: so many count.
    """
    group = F.pmod(F.xxhash64("user_id"), F.lit(GROUPS)).cast("int")
    ranked = users.select("model", "split", group.alias("group"), F.posexplode("items").alias("rank", "item"))
    shown = [F.count_if(F.col("rank") < k).alias(f"at{k}") for k in ks]
    cells = ranked.groupBy("model", "split", "group", "item").agg(*shown)
    sizes = {(r.model, r.split): r.n for r in users.groupBy("model", "split").agg(F.count("*").alias("n")).collect()}
    measure = partial(_measure, catalogue=catalogue, ks=ks, confidence=confidence, sizes=sizes)
    schema = "model string, split string, name string, mean double, low double, high double"
    rows = cells.groupBy("model", "split").applyInPandas(measure, schema).collect()
    found = {}
    for r in rows:  # on its way from pandas, NaN has become null
        mean, low, high = (float("nan") if x is None else x for x in (r.mean, r.low, r.high))
        found[r.model, r.split, r.name] = Interval(mean, low, high, sizes[r.model, r.split])
    for (model, split), n in sizes.items():  # lists that are all empty have no cells
        for name, (figure, _) in FIGURES.items():
            nothing = Interval(figure(np.zeros(catalogue, np.int64)), float("nan"), float("nan"), n)
            found |= {(model, split, f"{name}@{k}"): found.get((model, split, f"{name}@{k}"), nothing) for k in ks}
    return found


def _measure(
    cells: pd.DataFrame, catalogue: int, ks: list[int], confidence: float, sizes: dict[tuple[str, str], int]
) -> pd.DataFrame:
    """Turn one model's cells into rows of figures."""
    model, split = cells["model"].iloc[0], cells["split"].iloc[0]
    at, column = np.unique(cells["item"].to_numpy(), return_inverse=True)
    rows = []
    for k in ks:
        counts = np.zeros((GROUPS, max(catalogue, len(at))), np.int64)
        counts[cells["group"].to_numpy(), column] = cells[f"at{k}"].to_numpy()
        for name, (figure, most) in FIGURES.items():
            found = jackknife(counts, figure, confidence, sizes[model, split], most)
            rows.append((model, split, f"{name}@{k}", found.mean, found.low, found.high))
    return pd.DataFrame(rows, columns=["model", "split", "name", "mean", "low", "high"])
