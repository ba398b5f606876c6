"""Intervals and p-values that hold however often one looks, and whenever one stops.

A usual interval holds at one look that was planned. Who looks every day and stops at the first difference is wrong far
more often than the interval says. Mixing over effects of the size τ (Robbins 1970) gives a bound that all looks
together exceed with probability α at most: with an estimate of variance V at each look,

    |estimate - truth| < sqrt( 2 V (V + τ²) / τ² · ln( sqrt((V + τ²) / V) / α ) )

It is the mixture sequential probability ratio test turned into an interval (Johari, Koomen, Pekelis & Walsh 2022,
"Always valid inference"), and for means of any distribution the asymptotic confidence sequence of Waudby-Smith, Arbour,
Sinha, Kennedy & Ramdas (2024), who write ρ² = τ² / σ² and n for σ² / V. It is asymptotic: it holds from some hundreds
of users on. τ has to be fixed before the first look. It decides when the interval is narrowest, not whether it holds.
"""

from __future__ import annotations

import math


def sequential_half_width(error: float, tau: float, alpha: float) -> float:
    """Return half the width of the interval at a look.

    Args:
        error: the estimate's standard error at this look.
        tau: the size of effects that are looked for, in the unit of the estimate; above 0.
        alpha: chance that the interval of any look misses the truth.

    >>> round(sequential_half_width(error=0.02, tau=0.05, alpha=0.05), 4)
    0.0608
    """
    _check(tau, alpha)
    if not error > 0:  # no spread yet, or no estimate: nothing is known
        return math.nan if error != 0 else 0.0
    v, t = error**2, tau**2
    return math.sqrt(2 * v * (v + t) / t * (0.5 * math.log1p(t / v) - math.log(alpha)))


def always_valid_p(value: float, error: float, tau: float) -> float:
    """Return the p-value of an effect at a look, at most 1; the least of all looks so far is one too.

    `sqrt((V + τ²) / V) exp(-value² τ² / (2 V (V + τ²)))`, the inverse of the mixture's likelihood ratio.
    """
    _check(tau, 0.5)
    if not error > 0:
        return 1.0
    v, t = error**2, tau**2
    return min(1.0, math.exp(0.5 * math.log1p(t / v) - value**2 * t / (2 * v * (v + t))))


def _check(tau: float, alpha: float) -> None:
    if not tau > 0:
        raise ValueError(f"tau must be above 0, got {tau}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
