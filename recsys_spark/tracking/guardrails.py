"""What a challenger must not do although it is better on average: each rule one check with what it found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scipy.stats import norm

from recsys_spark.config import PromotionConfig
from recsys_spark.evaluation.bootstrap import BootstrapSums, Interval
from recsys_spark.evaluation.comparisons import holm
from recsys_spark.evaluation.cost import Cost

METRIC = "ndcg@10"
COVERAGE = "coverage@10"


@dataclass(frozen=True)
class Check:
    """One rule of the gate."""

    name: str
    """Its key in the configuration, below `promotion`."""
    passed: bool
    found: str
    """What was seen, in one sentence."""


def guardrails(
    config: PromotionConfig,
    challenger: Mapping[str, Interval],
    opponent: Mapping[str, Interval],
    slices: Mapping[str, BootstrapSums],
    confidence: float,
    cost: Cost,
) -> tuple[Check, ...]:
    """Return every check that the configuration asks for.

    Args:
        challenger, opponent: their metrics on test.
        slices: differences challenger - opponent in NDCG@10 by slice, of the users in each.
        confidence: `evaluation.confidence`.
        cost: of the challenger.
    """
    checks = []
    if config.max_gain is not None:
        checks.append(_not_too_good(challenger[METRIC].mean, opponent[METRIC].mean, config.max_gain))
    if config.min_coverage_ratio is not None:
        checks.append(_shows_enough(challenger[COVERAGE].mean, opponent[COVERAGE].mean, config.min_coverage_ratio))
    if config.max_slice_loss is not None:
        checks.append(_no_slice_loses(slices, config.max_slice_loss, config.min_slice_users, confidence))
    if config.max_score_ms is not None:
        checks.append(_is_fast(cost.score_ms, config.max_score_ms))
    if config.max_model_mb is not None:
        checks.append(_is_small(cost.bytes / 1e6, config.max_model_mb))
    return tuple(checks)


def slice_losses(slices: Mapping[str, BootstrapSums], most: float, min_users: int) -> dict[str, float]:
    """P-value of each slice for having lost no more than `most`, adjusted by Holm for the number of slices.

    One-sided, by the normal approximation with the bootstrap's standard error: the percentiles of some thousand
    replicates do not reach as far into the tail as many slices need. Slices of fewer users are not judged.
    """
    judged = {name: sums for name, sums in slices.items() if sums.n >= min_users}
    p_values = []
    for sums in judged.values():
        excess, error = sums.total / sums.n + most, sums.standard_error()
        p_values.append(float(norm.cdf(excess / error)) if error > 0 else float(excess >= 0))
    return dict(zip(judged, holm(p_values).tolist(), strict=True))


def _no_slice_loses(slices: Mapping[str, BootstrapSums], most: float, min_users: int, confidence: float) -> Check:
    p_values = slice_losses(slices, most, min_users)
    if not p_values:
        return Check("max_slice_loss", True, f"no slice has {min_users} users")
    alpha = 1 - confidence
    lost = sorted((name for name, p in p_values.items() if p < alpha), key=lambda n: slices[n].total / slices[n].n)
    worst = lost[0] if lost else min(p_values, key=lambda n: slices[n].total / slices[n].n)
    sums = slices[worst]
    said = f"{worst}: {METRIC} {sums.total / sums.n:+.4f} on {sums.n} users, adjusted p = {p_values[worst]:.3g}"
    if not lost:
        return Check("max_slice_loss", True, f"none of {len(p_values)} slices surely loses more than {most:g}; {said}")
    more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
    return Check("max_slice_loss", False, f"surely loses more than {most:g} in {said}{more}")


def _shows_enough(challenger: float, opponent: float, least: float) -> Check:
    share = challenger / opponent if opponent else float("inf")
    said = f"{COVERAGE} {challenger:.4f} is {share:.2f} of the opponent's {opponent:.4f}, {least:g} is asked for"
    return Check("min_coverage_ratio", share >= least, said)


def _not_too_good(challenger: float, opponent: float, most: float) -> Check:
    times = challenger / opponent if opponent else float("inf")
    said = f"{METRIC} is {times:.2f} times the opponent's, more than {most:g} is taken for a leak"
    return Check("max_gain", times <= most, said)


def _is_fast(found: float, most: float) -> Check:
    """Hold a time that was not measured for too long: a limit that cannot be checked is not met."""
    return Check("max_score_ms", found <= most, f"a user takes {found:.3g} ms to score, {most:g} ms are allowed")


def _is_small(found: float, most: float) -> Check:
    return Check("max_model_mb", found <= most, f"the model has {found:.3g} MB, {most:g} MB are allowed")
