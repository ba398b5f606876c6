"""How many users an experiment needs, and what it can see with those it has."""

from __future__ import annotations

import math

from scipy import stats


def power(effect: float, deviation: float, control: float, treatment: float, alpha: float) -> float:
    """Return the chance that a two-sided test sees an effect, by the normal approximation.

    `Φ(|δ|/s - z) + Φ(-|δ|/s - z)` with `s = σ sqrt(1/n_c + 1/n_t)` and z the quantile at 1 - α/2 (Cohen 1988, chapter
    2). Without an effect it is α.

    Args:
        effect: difference of the two means.
        deviation: standard deviation of a user's value; for a ratio, of its linearised value.
        control, treatment: users of each arm, above 0.

    >>> round(power(effect=0.05, deviation=1.0, control=6280, treatment=6280, alpha=0.05), 2)
    0.8
    """
    error = deviation * math.sqrt(1 / control + 1 / treatment)
    z, shift = stats.norm.isf(alpha / 2), abs(effect) / error
    return float(stats.norm.sf(z - shift) + stats.norm.cdf(-z - shift))


def users_needed(effect: float, deviation: float, alpha: float, chance: float, share: float = 0.5) -> int:
    """Return how many users both arms together need: `σ² (z_{1-α/2} + z_{chance})² / (δ² s (1 - s))`, rounded up.

    Args:
        effect: difference of the means that is to be seen; not 0.
        chance: the power.
        share: of the users in the treatment.

    >>> users_needed(effect=0.05, deviation=1.0, alpha=0.05, chance=0.8)
    12559
    """
    if not effect:
        raise ValueError("an effect of 0 cannot be seen with any number of users")
    z = stats.norm.isf(alpha / 2) + stats.norm.isf(1 - chance)
    return math.ceil((deviation * z / effect) ** 2 / (share * (1 - share)))


def detectable_effect(error: float, alpha: float, chance: float) -> float:
    """Return the least difference that is seen with the wanted chance: `(z_{1-α/2} + z_{chance}) · error`.

    Args:
        error: standard error of the difference of the arms.

    >>> round(detectable_effect(error=0.01, alpha=0.05, chance=0.8), 4)
    0.028
    """
    return float((stats.norm.isf(alpha / 2) + stats.norm.isf(1 - chance)) * error)
