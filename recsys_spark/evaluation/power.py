"""How small a difference a comparison can see, and how many users it takes to see one."""

from __future__ import annotations

import math

from scipy.stats import norm


def minimal_detectable_effect(standard_error: float, confidence: float = 0.95, power: float = 0.8) -> float:
    """Return the smallest true difference that is found with probability `power` (Bloom 1995).

    `(z_(1 + confidence) / 2 + z_power) x standard error`: found means that the interval of the difference lies above
    0. The standard error is of the paired difference, in the unit of the metric.

    >>> round(minimal_detectable_effect(0.01), 4)
    0.028
    """
    if not 0 < confidence < 1 or not 0 < power < 1:
        raise ValueError(f"confidence and power must be between 0 and 1, got {confidence} and {power}")
    return float(norm.ppf((1 + confidence) / 2) + norm.ppf(power)) * standard_error


def users_needed(effect: float, standard_error: float, n: int, confidence: float = 0.95, power: float = 0.8) -> int:
    """Return how many users it takes to find a true difference of `effect`, from the standard error that n users gave.

    >>> users_needed(0.014, standard_error=0.01, n=1000)
    4005
    """
    if effect <= 0:
        raise ValueError(f"effect must be positive, got {effect}")
    return math.ceil(n * (minimal_detectable_effect(standard_error, confidence, power) / effect) ** 2)
