"""What the figures mean for the decision, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from recsys_spark.evaluation.ab.effect import Effect
from recsys_spark.evaluation.ab.mismatch import Mismatch

Call = Literal["invalid", "ship", "stop", "wait"]
Guard = Literal["kept", "broken", "open"]

LEAST_USERS = 100
"""Of each arm; with fewer, no interval that rests on the central limit theorem is to be believed."""


@dataclass(frozen=True)
class Verdict:
    """What to do about an arm, and why."""

    call: Call
    """`invalid`: read nothing out of it; `ship`; `stop`: it does harm; `wait`: not known yet."""
    text: str
    guardrails: dict[str, Guard]


def judge_arm(
    effects: Mapping[str, Effect], primary: str, guardrails: Mapping[str, float], mismatch: Mismatch, least: float
) -> Verdict:
    """Decide about one arm by the intervals that hold at every look, so that it may be asked every day.

    Args:
        effects: by metric.
        guardrails: by metric, the relative loss that is put up with.
        least: chance below which the arms' sizes are no fair draw.
    """
    kept = {name: guard(effects[name], loss) for name, loss in guardrails.items()}
    if mismatch.p_value < least:
        found = ", ".join(f"{arm} {n:,} (expected {mismatch.expected[arm]:,.0f})" for arm, n in mismatch.users.items())
        text = (
            f"Read nothing out of this experiment: the arms have other sizes than they were to have ({found}; chance "
            f"{mismatch.p_value:.1g}). Find out who is missing before anything else."
        )
        return Verdict("invalid", text, kept)
    main = effects[primary]
    broken = [name for name, state in kept.items() if state == "broken"]
    waiting = [name for name, state in kept.items() if state == "open"]
    said = f"{primary} changes by {_percent(main.lift.value)} ({_span(main)})"
    if main.lift.value != main.lift.value:
        said = f"there is no {primary} to compare yet"
    if broken:
        losses = ", ".join(
            f"{name} by {_percent(effects[name].lift.value)} ({_span(effects[name])})" for name in broken
        )
        return Verdict("stop", f"Stop: a guardrail is broken, {losses}; {said}.", kept)
    users = min(main.control.n, main.treatment.n)
    if main.lift.value == main.lift.value and users < LEAST_USERS:
        return Verdict("wait", f"Wait: {said}, but an arm of {users:,} users is too small to believe it.", kept)
    if main.always.high < 0:
        return Verdict("stop", f"Stop: it does harm, {said}.", kept)
    if main.always.low > 0 and not waiting:
        safe = f", and no guardrail loses more than is put up with ({', '.join(kept)})" if kept else ""
        return Verdict("ship", f"Ship: {said}{safe}.", kept)
    if main.always.low > 0:
        limits = ", ".join(f"{name} {_at_worst(effects[name])}" for name in waiting)
        return Verdict("wait", f"Wait: it is better, {said}, but {limits}.", kept)
    if main.lift.value != main.lift.value:
        return Verdict("wait", f"Wait: {said}.", kept)
    return Verdict("wait", f"Wait: no difference is sure yet, {said}{_outlook(main)}.", kept)


def guard(effect: Effect, loss: float) -> Guard:
    """Tell whether a metric surely loses less than is put up with, surely more, or neither."""
    if min(effect.control.n, effect.treatment.n) < LEAST_USERS:
        return "open"
    if effect.always.low > -loss:
        return "kept"
    return "broken" if effect.always.high < -loss else "open"


def _outlook(effect: Effect) -> str:
    if effect.users_needed is None:
        return ""
    needed, users = effect.users_needed, effect.lift.n
    return f"; at one planned look, the lift that is looked for needs about {needed:,} users, and there are {users:,}"


def _at_worst(effect: Effect) -> str:
    low = effect.always.low
    known = low == low and min(effect.control.n, effect.treatment.n) >= LEAST_USERS
    return f"may still change by {_percent(low)}" if known else "is not known yet"


def _percent(share: float) -> str:
    return f"{100 * share:+.1f} %"


def _span(effect: Effect) -> str:
    return f"between {_percent(effect.always.low)} and {_percent(effect.always.high)}"
