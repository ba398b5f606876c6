"""Champion and challenger: a new model serves only when it is surely better on the same users."""

from __future__ import annotations

from dataclasses import dataclass

from recsys_spark.errors import RunError
from recsys_spark.evaluation.bootstrap import Interval
from recsys_spark.tracking.guardrails import METRIC, Check
from recsys_spark.tracking.registry import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    Registered,
    mark_rolled_back,
    resolve,
    set_alias,
)
from recsys_spark.tracking.store import Store

__all__ = ["METRIC", "Decision", "decide", "promote", "rollback"]


@dataclass(frozen=True)
class Decision:
    """Whether the challenger is promoted, and why in one sentence."""

    promoted: bool
    why: str
    checks: tuple[Check, ...] = ()
    """What was checked besides, passed or not."""


def decide(
    challenger: str, opponent: str, difference: Interval, margin: float, checks: tuple[Check, ...] = ()
) -> Decision:
    """Promote if the lower bound of challenger - opponent in NDCG@10 is above the margin, and every check passed.

    >>> decide("als", "popularity", Interval(0.02, 0.01, 0.03, 500), 0.0).promoted
    True
    >>> decide("als", "popularity", Interval(0.02, -0.01, 0.05, 500), 0.0).promoted
    False
    """
    found = f"{METRIC} {difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}] on {difference.n} users"
    if not difference.low > margin:
        why = f"{challenger} does not surely beat {opponent}: {found}, lower bound not above {margin:g}"
        return Decision(False, why, checks)
    failed = "; ".join(f"promotion.{check.name}: {check.found}" for check in checks if not check.passed)
    if failed:
        return Decision(False, f"{challenger} beats {opponent} ({found}) but is held back by {failed}", checks)
    return Decision(True, f"{challenger} beats {opponent}: {found}, lower bound above {margin:g}", checks)


def promote(store: Store, challenger: Registered, champion: Registered | None) -> None:
    """Make the challenger champion; `champion` is the last alias to move.

    Killed between the two steps, `previous` and `champion` are the same version, and the next run of the
    night does both again.
    """
    set_alias(store, CHALLENGER, challenger)
    if champion is not None:
        set_alias(store, PREVIOUS, champion)
    set_alias(store, CHAMPION, challenger)


def rollback(store: Store) -> tuple[Registered, Registered]:
    """Give the champion's place back to `previous`; returns the version that left and the one that serves.

    The version that left is not promoted again, however often its night is run.

    Raises:
        RunError: there is no previous champion.
    """
    champion, previous = resolve(store, CHAMPION), resolve(store, PREVIOUS)
    if champion is None or previous is None or champion.number == previous.number:
        raise RunError(f"{store.model_name}: there is no previous champion to go back to; promote twice first")
    mark_rolled_back(store, champion)
    set_alias(store, CHAMPION, previous)
    return champion, previous
