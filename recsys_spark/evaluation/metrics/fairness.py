"""Who gets the exposure, and for whom the lists are better.

Groups are integers from 0; item group -1 is an item that is in none, and gets no exposure counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recsys_spark.evaluation.metrics.hits import Floats, Ints


def group_exposure(ranked: Ints, group_of_item: NDArray[np.int64], n_groups: int, k: int) -> Floats:
    """Exposure of each item group: `sum over ranks r <= k of 1 / log2(r + 1)` (Singh & Joachims 2018), `[n_groups]`.

    Exposures of other users' lists add up.

    Args:
        ranked: `[B, K]`; 0 is nobody's.
        group_of_item: group of each item id, `[n_items + 1]`; a provider, a category, head or tail.

    >>> group_exposure(np.array([[1, 2], [2, 0]]), np.array([-1, 0, 1]), 2, k=2).round(4).tolist()
    [1.0, 1.6309]
    """
    top = ranked[:, :k]
    group = np.where(top > 0, group_of_item[top], -1)
    weight = np.broadcast_to(1 / np.log2(np.arange(2, top.shape[1] + 2)), top.shape)
    exposure: Floats = np.bincount(group[group >= 0], weight[group >= 0], n_groups).astype(np.float64)
    return exposure


def exposure_ratio(exposure: ArrayLike, share: ArrayLike) -> Floats:
    """Share of the exposure over the share that is due, by group: 1 is fair, 2 twice as much as due. `[G]`.

    Args:
        exposure: of `group_exposure`, `[G]`.
        share: what each group is due, in any unit: its number of items, or its number of interactions, `[G]`.

    NaN for a group that is due nothing, and for all without any exposure.

    >>> exposure_ratio([3.0, 1.0], [1, 1]).tolist()
    [1.5, 0.5]
    """
    given, due = np.asarray(exposure, float), np.asarray(share, float)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(due > 0, (given / given.sum()) / (due / due.sum()), np.nan)


@dataclass(frozen=True, eq=False)
class GroupGap:
    """A metric by group of users."""

    means: Floats
    """Mean of each group, `[G]`; NaN for a group without values."""
    gap: float
    """Best mean less worst mean; NaN with fewer than two groups that have one."""


def group_gap(values: ArrayLike, groups: ArrayLike, n_groups: int) -> GroupGap:
    """How far apart the user groups' means are (Ekstrand et al. 2018); NaN values have no group.

    >>> group_gap([0.25, 0.25, 0.75, float("nan")], [0, 0, 1, 1], 2).gap
    0.5
    """
    value, group = np.asarray(values, float), np.asarray(groups)
    known = ~np.isnan(value)
    with np.errstate(invalid="ignore"):
        means = np.bincount(group[known], value[known], n_groups) / np.bincount(group[known], minlength=n_groups)
    filled = means[~np.isnan(means)]
    return GroupGap(means, float(filled.max() - filled.min()) if len(filled) > 1 else float("nan"))
