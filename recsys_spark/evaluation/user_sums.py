"""Means, ratios and their errors from sums that add up across partitions.

A metric per shown item, such as clicks / impressions, is a ratio of two sums over users, and what one user does hangs
together: the users are the independent ones, not the rows. So every user is a vector of V sums (clicks, impressions
and so on), and all that is kept of the users of a partition is how many they are, their mean and their scatter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from recsys_spark.evaluation.bootstrap import Interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure, its standard error, and of how many independent users it is; NaN where there are too few."""

    value: float
    error: float
    n: int

    def interval(self, confidence: float) -> Interval:
        """Return the interval by Student's t with n - 1 degrees of freedom.

        >>> round(Estimate(1.0, 0.1, 1_000_000).interval(0.95).low, 3)
        0.804
        """
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
        width = stats.t.ppf((1 + confidence) / 2, self.n - 1) * self.error if self.n > 1 else math.nan
        return Interval(self.value, float(self.value - width), float(self.value + width), self.n)


@dataclass(frozen=True, eq=False)
class Moments:
    """What a partition knows of its users' vectors; `+` adds other users'."""

    n: int
    mean: Floats
    """[V]; 0 without a user."""
    scatter: Floats
    """[V, V]: sum over the users of (x - mean) (x - mean)ᵀ."""

    @classmethod
    def empty(cls, size: int) -> Moments:
        """No users at all: the zero of the addition."""
        return cls(0, np.zeros(size), np.zeros((size, size)))

    @classmethod
    def of(cls, values: ArrayLike) -> Moments:
        """Take users' vectors, [U, V].

        >>> Moments.of([[1.0, 2.0], [3.0, 2.0]]).covariance.tolist()
        [[2.0, 0.0], [0.0, 0.0]]
        """
        x = np.asarray(values, np.float64)
        if x.ndim != 2:
            raise ValueError(f"values have the shape {x.shape}; they must be [U, V]")
        if not len(x):
            return cls.empty(x.shape[1])
        mean = x.mean(axis=0)
        return cls(len(x), mean, (x - mean).T @ (x - mean))

    @classmethod
    def total(cls, parts: Iterable[Moments], size: int) -> Moments:
        """Add up the parts of a table."""
        return sum(parts, start=cls.empty(size))

    def __add__(self, other: Moments) -> Moments:
        """Add other users (Chan, Golub & LeVeque 1979): exact where means are large and spreads small."""
        n = self.n + other.n
        if not self.n or not other.n:
            return self if self.n else other
        apart = other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(apart, apart) * (self.n * other.n / n)
        return Moments(n, self.mean + apart * (other.n / n), scatter)

    @property
    def covariance(self) -> Floats:
        """Unbiased covariance of a user's sums, [V, V]; NaN with fewer than two users."""
        return self.scatter / (self.n - 1) if self.n > 1 else np.full_like(self.scatter, np.nan)

    def gradient(self, numerator: int, denominator: int) -> Floats:
        """Return [V]: how the ratio of two means moves with each mean, at the means that there are."""
        slope = np.zeros(len(self.mean))
        below = self.mean[denominator]
        if below:
            slope[numerator] += 1 / below
            slope[denominator] -= self.mean[numerator] / below**2
        return slope

    def ratio(self, numerator: int, denominator: int) -> Estimate:
        """Return sum / sum and its error by the delta method (Deng, Knoblich & Lu 2018, section 3).

        `Var(S/N) ≈ gᵀ Σ g / n` with the gradient g of the ratio and the covariance Σ of the users' vectors. With a
        denominator of 1 for everyone it is the mean and its usual error. NaN where the denominators are 0.
        """
        below = self.mean[denominator]
        if not self.n or not below:
            return Estimate(math.nan, math.nan, self.n)
        slope = self.gradient(numerator, denominator)
        variance = float(slope @ self.covariance @ slope) / self.n
        return Estimate(float(self.mean[numerator] / below), math.sqrt(max(variance, 0.0)), self.n)


def sum_by_user(values: Floats, users: NDArray[np.integer]) -> Floats:
    """Add up rows [N, V] of the same user: [U, V], in the order of the user ids.

    >>> sum_by_user(np.array([[1.0], [2.0], [4.0]]), np.array([7, 9, 7])).tolist()
    [[5.0], [2.0]]
    """
    found, row = np.unique(users, return_inverse=True)
    return np.stack([np.bincount(row, column, len(found)) for column in values.T], axis=1)
