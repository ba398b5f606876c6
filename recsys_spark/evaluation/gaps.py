"""For which group of users the lists are best and worst, from the slices that the night measures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys_spark.evaluation.metrics.fairness import group_gap
from recsys_spark.evaluation.results import Results

_OF_ITEMS = "item"


@dataclass(frozen=True)
class Gap:
    """Between the groups of users of one kind."""

    gap: float
    """NDCG@10 of the best group less that of the worst."""
    best: str
    best_mean: float
    worst: str
    worst_mean: float


def user_gaps(slices: Results, min_users: int, split: str = "test") -> dict[str, dict[str, Gap]]:
    """Return by model and kind of group (`activity`, `country`) how far apart its groups are.

    Args:
        slices: of `results.slice_results`; those of items are left out.
        min_users: groups of fewer are left out; a kind with fewer than two has no gap.

    >>> from recsys_spark.evaluation.bootstrap import Interval
    >>> of = {"user=warm": Interval(0.5, 0.4, 0.6, 90), "user=cold": Interval(0.25, 0.2, 0.3, 80)}
    >>> user_gaps({"als": {"test": of}}, min_users=50)["als"]["user"].gap
    0.25
    """
    found: dict[str, dict[str, Gap]] = {}
    for model, splits in slices.items():
        kinds: dict[str, dict[str, float]] = {}
        for name, mean in splits.get(split, {}).items():
            kind, _, value = name.partition("=")
            if kind != _OF_ITEMS and mean.n >= min_users:
                kinds.setdefault(kind, {})[value] = mean.mean
        for kind, means in sorted(kinds.items()):
            if len(means) > 1:
                values = [*means.values()]
                gap = group_gap(values, np.arange(len(values)), len(values)).gap
                best, worst = (max(means, key=means.__getitem__), min(means, key=means.__getitem__))
                found.setdefault(model, {})[kind] = Gap(gap, best, means[best], worst, means[worst])
    return found
