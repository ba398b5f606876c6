"""How far a column's values of one day are from those of another: the population stability index.

    PSI = sum over bins of (p - q) · ln(p / q)

for the shares p and q of the two days. It is Kullback's and Leibler's symmetric divergence J ("On information
and sufficiency", Annals of Mathematical Statistics 22, 1951), under the name that credit scoring gave it
(Siddiqi, *Credit Risk Scorecards*, 2006), where 0.1 counts as a change and 0.25 as a large one. It is never
negative, 0 for equal shares, and the same in both directions.

An empty bin has the share `FLOOR`, as has one below it; the shares are not made to add up to 1 again, which
keeps these three properties. A column that is missing is a bin of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recsys_spark.log.profile import Histogram

FLOOR = 1e-4
"""Least share of a bin."""
RARE = 0.005
"""Values of no larger share on either day go into one bin, with those that the histograms no longer tell apart."""
QUANTILES = 10


@dataclass(frozen=True)
class Drift:
    """The PSI of two days, and how much of it the luck of so few observations explains."""

    psi: float
    noise: float
    """Expected PSI of two samples of one distribution: (bins - 1) · (1/n + 1/m), for n and m independent observations
    (Yurdakul, *Statistical Properties of Population Stability Index*, 2018)."""


def psi(reference: ArrayLike, now: ArrayLike) -> float:
    """Return the PSI of the counts of two days, bin by bin; 0 where a day has no events.

    >>> psi([50, 50], [50, 50])
    0.0
    >>> round(psi([50, 50], [75, 25]), 6) == round(0.25 * np.log(3), 6)
    True
    """
    q, p = np.asarray(reference, float), np.asarray(now, float)
    if not q.sum() or not p.sum():
        return 0.0
    q, p = np.maximum(q / q.sum(), FLOOR), np.maximum(p / p.sum(), FLOOR)
    return float(((p - q) * np.log(p / q)).sum())


def drift(reference: Histogram, now: Histogram, people: tuple[int, int] | None = None) -> Drift | None:
    """Return the drift of a column between two days; None where a day has no events.

    Args:
        people: users of the reference and of now. A user's events go together (one country, mostly one device, a
            few hours), so the users are what is independent; None = every event is by itself.
    """
    q, p = _by_quantile(reference, now) if reference.numeric else _by_value(reference, now)
    n, m = people or (q.sum(), p.sum())
    if not q.sum() or not p.sum() or not n or not m:
        return None
    bins = int(((q > 0) | (p > 0)).sum())
    return Drift(psi(q, p), (bins - 1) * float(1 / n + 1 / m))


def _by_value(reference: Histogram, now: Histogram) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Count the events of each value that is frequent on a day, of the rest, and of none."""
    names = sorted({*reference.values, *now.values})
    q, p = (np.array([h.values.get(n, 0) for n in names], float) for h in (reference, now))
    totals = [counts.sum() + h.other + h.missing for counts, h in ((q, reference), (p, now))]
    frequent = (q > RARE * totals[0]) | (p > RARE * totals[1])
    return _counts(q[frequent], q[~frequent].sum(), reference), _counts(p[frequent], p[~frequent].sum(), now)


def _by_quantile(reference: Histogram, now: Histogram) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Count the events between the reference's deciles (fewer, where a value spans several), and of no value.

    A bin has its upper end and not its lower one; the outer bins are open.
    """
    values, counts = _numbers(reference)
    reached = np.cumsum(counts) / max(counts.sum(), 1)
    edges = np.unique(
        [values[np.searchsorted(reached, d / QUANTILES)] for d in range(1, QUANTILES)] if len(values) else []
    )
    binned = []
    for histogram in (reference, now):
        values, counts = _numbers(histogram)
        found = np.bincount(np.searchsorted(edges, values), counts, len(edges) + 1)
        binned.append(_counts(found.astype(float), 0, histogram))
    return binned[0], binned[1]


def _numbers(histogram: Histogram) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The numbers, ascending, and how often each occurs."""
    pairs = sorted((float(v), n) for v, n in histogram.values.items())
    return np.array([v for v, _ in pairs]), np.array([n for _, n in pairs], float)


def _counts(bins: NDArray[np.float64], rest: float, histogram: Histogram) -> NDArray[np.float64]:
    return np.concatenate([bins, [rest + histogram.other, histogram.missing]])
