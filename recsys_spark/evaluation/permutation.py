"""The paired permutation test: how often chance alone makes two models differ as much as they do.

Were the models the same, each user's difference could as well have the other sign. The test gives every user a random
sign in every replicate (Smucker, Allan & Carterette 2007, "A comparison of statistical significance tests for
information retrieval evaluation") and counts the replicates whose sum is as far from 0. A sign is a bit of a hash of
(seed, user, replicate), so that the sums of partitions add up and their number changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recsys_spark.evaluation.bootstrap import GOLDEN, as_ids, splitmix64

_CELLS = 1 << 18  # users x replicates at a time
_STREAM = 0x5F1  # another stream than the bootstrap's weights


@dataclass(frozen=True, eq=False)
class SignFlipSums:
    """What a partition knows about a difference; `+` adds other users."""

    flipped: NDArray[np.float64]
    """Sum of the differences with each replicate's signs, `[R]`."""
    total: float
    """Plain sum of the differences."""
    n: int
    """Users with a difference, NaN not counted."""

    @classmethod
    def empty(cls, replicates: int) -> SignFlipSums:
        """No users at all: the zero of the addition."""
        return cls(np.zeros(replicates), 0.0, 0)

    def __add__(self, other: SignFlipSums) -> SignFlipSums:
        """Add sums over other users, of as many replicates."""
        return SignFlipSums(self.flipped + other.flipped, self.total + other.total, self.n + other.n)

    def p_value(self) -> float:
        """Return the two-sided p-value, `(1 + replicates as far from 0) / (1 + replicates)`; NaN without users.

        The 1 is the data itself, which makes the test exact (Phipson & Smyth 2010): it is never 0.
        """
        if not self.n:
            return math.nan
        # sums of the same numbers in another order are equal up to rounding only
        slack = 1e-9 * max(1.0, abs(self.total))
        extreme = int((np.abs(self.flipped) >= abs(self.total) - slack).sum())
        return (1 + extreme) / (1 + len(self.flipped))


def sign_flip_sums(differences: ArrayLike, user_ids: ArrayLike, replicates: int, seed: int) -> SignFlipSums:
    """Sum one difference per user under every replicate's signs: float `[B]`, int64 `[B]`. NaN has no part in it.

    >>> sums = sign_flip_sums([0.5, 0.5, 0.5], [1, 2, 3], replicates=1000, seed=7)
    >>> 0.2 < sums.p_value() < 0.3  # all three signs the same: 2 of 8
    True
    """
    if replicates < 1:
        raise ValueError(f"replicates must be at least 1, got {replicates}")
    users, values = as_ids(user_ids), np.asarray(differences, np.float64)
    if values.shape != users.shape or users.ndim != 1:
        raise ValueError(f"differences have shape {values.shape}, user_ids {users.shape}; both must be [B]")
    known = ~np.isnan(values)
    users, values = users[known], values[known]
    positive = np.zeros(replicates)
    chunk = max(1, _CELLS // replicates)
    for start in range(0, len(users), chunk):
        some = slice(start, start + chunk)
        positive += values[some] @ _coins(users[some], replicates, seed).astype(np.float64)
    total = float(values.sum())
    return SignFlipSums(2 * positive - total, total, len(users))  # the rest is negative


def _coins(users: NDArray[np.int64], replicates: int, seed: int) -> NDArray[np.uint8]:
    """0 or 1 for every user and replicate, `[B, R]`: 64 of each number of the user's generator."""
    salt = splitmix64(np.array([(seed + (_STREAM << 32)) % 2**64], np.uint64))
    state = splitmix64(users.view(np.uint64) + salt)
    step = np.arange(1, -(-replicates // 64) + 1, dtype=np.uint64) * GOLDEN
    mixed = splitmix64(state[:, None] + step).astype("<u8", copy=False)
    return np.unpackbits(mixed.view(np.uint8), axis=1)[:, :replicates]
