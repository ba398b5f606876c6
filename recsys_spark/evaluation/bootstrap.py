"""Confidence intervals over users by the Poisson bootstrap, in sums that add up across partitions.

A bootstrap replicate draws n users with replacement, which needs all users in one place. The Poisson bootstrap
(Chamandy, Muralidharan, Najmi & Naidu 2012, "Estimating uncertainty for massive data streams", Google) instead gives
every user an independent Poisson(1) weight in every replicate. Here that weight is a hash of (seed, user, replicate):
no state, no order, so each Spark partition sums its own users, the sums add, and the interval is the same however
the users were partitioned, on one core or a hundred.

    one partition:  parts = bootstrap_sums_by_name(evaluate_lists(...), user_ids, replicates, seed)
    the driver:     sum(parts_of_one_metric, start=BootstrapSums.empty(replicates)).interval(0.95)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recsys_spark.hashing import GOLDEN, splitmix64

_CELLS = 1 << 17  # users x replicates weighted at a time: about 2 MiB of temporaries, which stays in the cache


def _poisson_thresholds() -> list[np.uint32]:
    """`P(Poisson(1) <= w) * 2^32` for w = 0, 1, ...: a uniform uint32 has the weight of how many it reaches.

    Stops at w = 11: a weight of 13 has probability 6e-11, less than one uint32 in 2^32.
    """
    below = np.cumsum([math.exp(-1) / math.factorial(w) for w in range(20)])
    scaled = [round(p * 2**32) for p in below]
    return [np.uint32(t) for t in scaled if t < 2**32]


_THRESHOLDS = _poisson_thresholds()


@dataclass(frozen=True)
class Interval:
    """A mean over n users and its confidence interval `[low, high]`; all NaN where n is 0."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, eq=False)
class BootstrapSums:
    """What a partition knows about a mean: four sums, which `+` adds to those of other users."""

    weighted_sum: NDArray[np.float64]
    """Sum of weight * value in each replicate, `[R]`."""
    weight_sum: NDArray[np.float64]
    """Sum of the weights in each replicate, `[R]`; whole numbers."""
    total: float
    """Plain sum of the values."""
    n: int
    """How many values there are, NaN not counted."""

    @classmethod
    def empty(cls, replicates: int) -> BootstrapSums:
        """No users at all: the zero of the addition, and the `start` of `sum`."""
        return cls(np.zeros(replicates), np.zeros(replicates), 0.0, 0)

    def __add__(self, other: BootstrapSums) -> BootstrapSums:
        """Add sums over other users: the two must share no user and have the same number of replicates."""
        if self.weight_sum.shape != other.weight_sum.shape:
            raise ValueError(f"{self.weight_sum.size} replicates cannot be added to {other.weight_sum.size}")
        return BootstrapSums(
            self.weighted_sum + other.weighted_sum,
            self.weight_sum + other.weight_sum,
            self.total + other.total,
            self.n + other.n,
        )

    def interval(self, confidence: float) -> Interval:
        """Return the mean and the percentile interval of the replicates' means (Efron & Tibshirani 1993, chapter 13).

        Without users, NaN. Below some 30 users a percentile interval is too narrow (by about sqrt((n - 1) / n), and
        more for skewed values); one user's interval is a point.

        >>> bootstrap_sums([0.5, 0.5, float("nan")], [1, 2, 3], replicates=100, seed=7).interval(0.95)
        Interval(mean=0.5, low=0.5, high=0.5, n=2)
        """
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
        drawn = self.weight_sum > 0  # a replicate that drew nobody has no mean; it happens with a handful of users
        if not drawn.any():
            mean = self.total / self.n if self.n else math.nan
            return Interval(mean, math.nan, math.nan, self.n)
        means = self.weighted_sum[drawn] / self.weight_sum[drawn]
        low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
        return Interval(self.total / self.n, float(low), float(high), self.n)

    def standard_error(self) -> float:
        """Return the standard deviation of the replicates' means; NaN with fewer than two replicates that drew anyone.

        >>> bootstrap_sums([0.5, 0.5], [1, 2], replicates=100, seed=7).standard_error()
        0.0
        """
        drawn = self.weight_sum > 0
        if drawn.sum() < 2:
            return math.nan
        return float((self.weighted_sum[drawn] / self.weight_sum[drawn]).std(ddof=1))


def ratio_interval(over: BootstrapSums, under: BootstrapSums, confidence: float, root: bool = False) -> Interval:
    """Interval of the ratio of two sums over the same users, such as errors and ratings, or clicks and impressions.

    Args:
        root: of the square root of the ratio, as RMSE is of squared errors.

    Returns:
        The ratio of the totals and its percentile interval; `n` is the total below. NaN where that is 0.

    >>> errors, ratings = (bootstrap_sums(v, [1, 2], replicates=100, seed=7) for v in ([2.0, 4.0], [1.0, 2.0]))
    >>> ratio_interval(errors, ratings, 0.95)
    Interval(mean=2.0, low=2.0, high=2.0, n=3)
    """
    drawn = under.weighted_sum > 0
    if not drawn.any():
        return Interval(math.nan, math.nan, math.nan, 0)
    ratios = over.weighted_sum[drawn] / under.weighted_sum[drawn]
    low, high = np.quantile(ratios, [(1 - confidence) / 2, (1 + confidence) / 2])
    found = [over.total / under.total, float(low), float(high)]
    value, low, high = (math.sqrt(x) for x in found) if root else found
    return Interval(value, low, high, round(under.total))


def poisson_weights(user_ids: ArrayLike, replicates: int, seed: int) -> NDArray[np.uint8]:
    """Poisson(1) weight of every user in every replicate: uint8 `[B, R]`, a pure function of (seed, id, replicate).

    A user's generator starts at a hash of the seed and the id; each of its 64-bit numbers serves two replicates.
    The first R of more than R replicates are these same R.

    >>> both = poisson_weights([7, 9], replicates=5, seed=1)
    >>> bool((poisson_weights([9], replicates=5, seed=1) == both[1:]).all())
    True
    """
    salt = splitmix64(np.array([seed % 2**64], np.uint64))
    state = splitmix64(as_ids(user_ids).view(np.uint64) + salt)  # [B]
    step = np.arange(1, (replicates + 1) // 2 + 1, dtype=np.uint64) * GOLDEN  # [ceil(R / 2)]
    mixed = splitmix64(state[:, None] + step)
    # Little-endian on every machine: which half is which replicate must not depend on where the partition ran.
    uniform = mixed.astype("<u8", copy=False).view("<u4")[:, :replicates]  # [B, R]
    weights = np.zeros(uniform.shape, np.uint8)
    for threshold in _THRESHOLDS:
        weights += uniform >= threshold
    return weights


def bootstrap_sums(values: ArrayLike, user_ids: ArrayLike, replicates: int, seed: int) -> BootstrapSums:
    """Sum one value per user: `values` float `[B]`, `user_ids` int64 `[B]`. NaN values have no weight either.

    Several rows of one user get the same weight, so that the interval is over users even where `n` counts rows.
    """
    return bootstrap_sums_by_name({"value": values}, user_ids, replicates, seed)["value"]


def bootstrap_sums_by_name(
    values: Mapping[str, ArrayLike], user_ids: ArrayLike, replicates: int, seed: int
) -> dict[str, BootstrapSums]:
    """`bootstrap_sums` of M values per user, `{name: [B]}`, at little more than the cost of one.

    The weights are most of the work and are the same for every name. Memory is bounded: users are weighted in chunks.
    """
    if replicates < 1:
        raise ValueError(f"replicates must be at least 1, got {replicates}")
    users = as_ids(user_ids)
    columns = {name: np.asarray(column, np.float64) for name, column in values.items()}
    for name, column in columns.items():
        if column.shape != users.shape or users.ndim != 1:
            raise ValueError(f"{name} has shape {column.shape}, user_ids {users.shape}; both must be [B]")
    if not columns:
        return {}
    stacked = np.stack(list(columns.values()))  # [M, B]
    known = ~np.isnan(stacked)
    # Values without NaN, then what counts of them: one matrix product per chunk gives both sums.
    terms = np.concatenate([np.where(known, stacked, 0.0), known])  # [2M, B]
    sums = np.zeros((len(terms), replicates))
    chunk = max(1, _CELLS // replicates)
    for start in range(0, len(users), chunk):
        weights = poisson_weights(users[start : start + chunk], replicates, seed)
        sums += terms[:, start : start + chunk] @ weights.astype(np.float64)  # [2M, R]
    m = len(columns)
    return {
        name: BootstrapSums(sums[i], sums[m + i], float(terms[i].sum()), int(known[i].sum()))
        for i, name in enumerate(columns)
    }


def paired_difference(
    values_a: ArrayLike, values_b: ArrayLike, user_ids: ArrayLike, replicates: int, seed: int, confidence: float
) -> Interval:
    """Interval of the mean of a - b over the users that have both: float `[B]` each, NaN where either has none.

    Two models' values of one user go up and down together, so this is narrower than the two intervals apart. On
    Spark, add up `bootstrap_sums` of a - b.

    >>> paired_difference([0.5, 0.9], [0.25, 0.65], [1, 2], replicates=100, seed=7, confidence=0.9).n
    2
    """
    difference = np.asarray(values_a, np.float64) - np.asarray(values_b, np.float64)
    return bootstrap_sums(difference, user_ids, replicates, seed).interval(confidence)


def as_ids(user_ids: ArrayLike) -> NDArray[np.int64]:
    """User ids as int64; a float column (pandas makes one of missing ids) must not be truncated to some other id."""
    ids = np.asarray(user_ids)
    if ids.size and ids.dtype.kind not in "iu":
        raise ValueError(f"user_ids must be integers, got {ids.dtype}")
    return ids.astype(np.int64, copy=False)
