"""Many comparisons at once: p-values adjusted so that more of them do not find more by chance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from recsys_spark.evaluation.metrics.hits import Floats


def holm(p_values: ArrayLike) -> Floats:
    """Adjust p-values by Holm's step-down method (1979): below alpha, no false one with probability 1 - alpha.

    `max over the smaller ones j <= i of min(1, (m - j + 1) p_(j))`, in rising order. Holds however the tests hang
    together. NaN is no test, and stays NaN. `[M]` in, `[M]` out.

    >>> holm([0.01, 0.04, 0.03]).round(4).tolist()
    [0.03, 0.06, 0.06]
    """
    return _adjusted(p_values, lambda p: np.maximum.accumulate(p * np.arange(len(p), 0, -1)))


def benjamini_hochberg(p_values: ArrayLike) -> Floats:
    """Adjust p-values by Benjamini & Hochberg (1995): of what is below alpha, a share of alpha is false on average.

    `min over the larger ones j >= i of min(1, m / j p_(j))`, in rising order. Holds for tests that are independent or
    positively dependent. NaN as in `holm`.

    >>> benjamini_hochberg([0.01, 0.04, 0.03]).round(4).tolist()
    [0.03, 0.04, 0.04]
    """

    def step_up(p: Floats) -> Floats:
        scaled = p * len(p) / np.arange(1, len(p) + 1)
        return np.minimum.accumulate(scaled[::-1])[::-1]

    return _adjusted(p_values, step_up)


def _adjusted(p_values: ArrayLike, adjust: Callable[[Floats], Floats]) -> Floats:
    p = np.asarray(p_values, np.float64)
    known = np.flatnonzero(~np.isnan(p))
    if ((p[known] < 0) | (p[known] > 1)).any():
        raise ValueError("p-values must lie between 0 and 1")
    order = known[np.argsort(p[known], kind="stable")]
    found = np.full(p.shape, np.nan)
    found[order] = np.minimum(adjust(p[order]), 1.0)
    return found
