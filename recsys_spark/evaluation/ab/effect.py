"""The difference between two arms: with CUPED, as a relative change, with intervals for one look and for all looks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import stats

from recsys_spark.evaluation.ab.power import detectable_effect, users_needed
from recsys_spark.evaluation.ab.sequential import always_valid_p, sequential_half_width
from recsys_spark.evaluation.bootstrap import Interval
from recsys_spark.evaluation.user_sums import Estimate, Floats, Moments

NUMERATOR, DENOMINATOR, NUMERATOR_BEFORE, DENOMINATOR_BEFORE = range(4)


@dataclass(frozen=True)
class Asked:
    """What is asked of a comparison."""

    alpha: float
    """Chance of an interval that misses the truth."""
    expected_lift: float
    """Relative change that is looked for, above 0; fixed before the first look."""
    power: float


@dataclass(frozen=True)
class Effect:
    """What an arm does to a metric, beside the control. All relative figures are shares: 0.02 is 2 % more."""

    control: Estimate
    """The metric in the control, as it was counted."""
    treatment: Estimate
    difference: Estimate
    """Treatment - control, after CUPED."""
    lift: Estimate
    """(treatment - control) / control, after CUPED."""
    once: Interval
    """Of the lift; holds at one look that was planned, and at that alone."""
    always: Interval
    """Of the lift; holds at all looks together."""
    p_value: float
    """For one look."""
    always_p: float
    """For all looks together."""
    variance_left: float
    """Variance of the difference with CUPED / without; 1 where there is nothing to go by."""
    detectable: float
    """Least relative change that one look would see with the wanted power."""
    users_needed: int | None
    """Users of both arms for the expected lift to be seen so; None where it cannot be told."""


def compare(control: Moments, treatment: Moments, asked: Asked) -> Effect:
    """Hold an arm against the control: moments of users' vectors of four sums, as `daily` makes them."""
    raw_c, raw_t = (arm.ratio(NUMERATOR, DENOMINATOR) for arm in (control, treatment))
    theta, slope = cuped(control, treatment)
    c, t = (adjusted(arm, theta, slope, control + treatment) for arm in (control, treatment))
    n = control.n + treatment.n
    difference = Estimate(t.value - c.value, math.hypot(c.error, t.error), n)
    lift = _lift(c, t, n) if raw_c.value > 0 else Estimate(math.nan, math.nan, n)
    width = sequential_half_width(lift.error, asked.expected_lift, asked.alpha)
    plain = raw_c.error**2 + raw_t.error**2
    z = abs(lift.value) / lift.error if lift.error > 0 else math.nan
    return Effect(
        raw_c, raw_t, difference, lift,
        once=lift.interval(1 - asked.alpha),
        always=Interval(lift.value, lift.value - width, lift.value + width, n),
        p_value=float(2 * stats.norm.sf(z)) if z == z else 1.0,
        always_p=always_valid_p(lift.value, lift.error, asked.expected_lift),
        variance_left=difference.error**2 / plain if plain > 0 else 1.0,
        detectable=detectable_effect(lift.error, asked.alpha, asked.power),
        users_needed=_needed(control, treatment, c, t, asked),
    )  # fmt: skip


def cuped(control: Moments, treatment: Moments) -> tuple[float, Floats]:
    """Return θ and the gradient [4] of the covariate: CUPED (Deng, Xu, Kohavi & Walker 2013).

    `θ = Cov(Y, X) / Var(X)` within the arms, with Y the metric and X the same metric from before the assignment; of
    ratios, their linear forms around the means (ibid., appendix B). The variance that is left is 1 - ρ² of what was.
    θ is 0 where nothing is known from before.
    """
    slope = (control + treatment).gradient(NUMERATOR_BEFORE, DENOMINATOR_BEFORE)
    together = spread = 0.0
    for arm in (control, treatment):
        together += float(arm.gradient(NUMERATOR, DENOMINATOR) @ arm.scatter @ slope)
        spread += float(slope @ arm.scatter @ slope)
    return (together / spread if spread > 0 else 0.0), slope


def adjusted(arm: Moments, theta: float, slope: Floats, everyone: Moments) -> Estimate:
    """Return the arm's metric as it would be if its users had been like everyone before the assignment."""
    raw = arm.ratio(NUMERATOR, DENOMINATOR)
    before = float(slope @ (arm.mean - everyone.mean))
    direction = arm.gradient(NUMERATOR, DENOMINATOR) - theta * slope
    variance = float(direction @ arm.covariance @ direction) / arm.n if arm.n else math.nan
    error = math.sqrt(max(variance, 0.0)) if variance == variance else math.nan
    return Estimate(raw.value - theta * before, error, arm.n)


def _lift(control: Estimate, treatment: Estimate, n: int) -> Estimate:
    """Relative change `t / c - 1`, and its error by the delta method: `Var ≈ Var(t) / c² + t² Var(c) / c⁴`."""
    c, t = control.value, treatment.value
    if not c > 0:
        return Estimate(math.nan, math.nan, n)
    return Estimate(t / c - 1, math.hypot(treatment.error / c, t * control.error / c**2), n)


def _needed(control: Moments, treatment: Moments, c: Estimate, t: Estimate, asked: Asked) -> int | None:
    """For the lift that is looked for, with the spread between users that the control shows."""
    deviation = c.error * math.sqrt(control.n)
    if not c.value > 0 or not deviation > 0 or not treatment.n:
        return None
    share = treatment.n / (control.n + treatment.n)
    return users_needed(asked.expected_lift * c.value, deviation, asked.alpha, asked.power, share)
