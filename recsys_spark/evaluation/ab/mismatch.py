"""Whether the arms have the sizes that they were to have; if not, who is in them is no fair draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Mismatch:
    """Users by arm, how many were expected, and the chance of being so far off."""

    users: dict[str, int]
    expected: dict[str, float]
    chi_square: float
    p_value: float


def sample_ratio_mismatch(users: Mapping[str, int], shares: Mapping[str, float]) -> Mismatch:
    """Hold the arms' sizes against their shares by Pearson's chi-square (Fabijan et al. 2019, KDD).

    `Σ (n_a - N s_a)² / (N s_a)` with arms - 1 degrees of freedom.

    Args:
        users: users of each arm.
        shares: positive, by arm; need not add up to 1.

    Raises:
        ValueError: the arms are not the same, or fewer than two, or nobody is in them.

    >>> round(sample_ratio_mismatch({"a": 821_588, "b": 815_482}, {"a": 1, "b": 1}).p_value, 7)
    1.8e-06
    """
    if users.keys() != shares.keys() or len(users) < 2:
        raise ValueError(f"arms {sorted(users)} and shares {sorted(shares)} must be the same two or more")
    arms, total = sorted(users), sum(users.values())
    if not total:
        raise ValueError("no user was given an arm")
    share = np.array([shares[a] for a in arms], float)
    expected = total * share / share.sum()
    observed = np.array([users[a] for a in arms], float)
    chi_square = float(((observed - expected) ** 2 / expected).sum())
    by_arm = dict(zip(arms, expected.tolist(), strict=True))
    return Mismatch(dict(users), by_arm, chi_square, float(stats.chi2.sf(chi_square, len(arms) - 1)))
