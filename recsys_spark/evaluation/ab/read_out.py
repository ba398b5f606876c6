"""An experiment as it stands: every arm held against the control at every look, and the verdicts of the last."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from recsys_spark.config import ExperimentConfig
from recsys_spark.errors import ConfigError, DataError
from recsys_spark.evaluation.ab.daily import METRICS, SIZE
from recsys_spark.evaluation.ab.effect import Asked, Effect, compare
from recsys_spark.evaluation.ab.mismatch import Mismatch, sample_ratio_mismatch
from recsys_spark.evaluation.ab.users import Looks
from recsys_spark.evaluation.ab.verdict import Verdict, judge_arm
from recsys_spark.evaluation.user_sums import Moments

Effects = dict[str, dict[str, Effect]]
"""Arm -> metric -> effect."""


@dataclass(frozen=True)
class ReadOut:
    """What is known of an experiment at the end of a day."""

    first: dt.date
    last: dt.date
    control: str
    primary: str
    mismatch: Mismatch
    crossed: int
    by_day: dict[dt.date, Effects]
    verdicts: dict[str, Verdict]

    @property
    def effects(self) -> Effects:
        """Those of the last look."""
        return self.by_day[self.last]

    def to_json(self) -> dict[str, Any]:
        """Return plain values: the last look in full, of the others the lift of every metric."""
        days = {
            str(day): {a: {m: asdict(e.always) for m, e in of.items()} for a, of in effects.items()}
            for day, effects in self.by_day.items()
        }
        return {
            "first": str(self.first), "last": str(self.last), "control": self.control, "primary": self.primary,
            "crossed": self.crossed, "mismatch": asdict(self.mismatch),
            "verdicts": {arm: asdict(verdict) for arm, verdict in self.verdicts.items()},
            "effects": {a: {m: asdict(e) for m, e in of.items()} for a, of in self.effects.items()},
            "lift_by_day": days,
        }  # fmt: skip


def read_out(users: Mapping[str, int], crossed: int, looks: Looks, config: ExperimentConfig) -> ReadOut:
    """Compare, check and judge.

    Args:
        users: users by arm, at the last look.
        crossed: users who had several arms.
        looks: moments by day, arm and metric.

    Raises:
        ConfigError: the arms of the table are not those of the configuration.
        DataError: there is one arm alone.
    """
    shares = arm_shares(users, config)
    days = sorted({day for day, _, _ in looks})
    arms = sorted(a for a in users if a != config.control)
    # several arms beside the control share the chance of being wrong (Bonferroni)
    asked = Asked((1 - config.confidence) / len(arms), config.expected_lift, config.power)

    def moments(day: dt.date, arm: str, metric: str) -> Moments:
        return looks.get((day, arm, metric), Moments.empty(SIZE))

    by_day = {
        day: {
            arm: {m: compare(moments(day, config.control, m), moments(day, arm, m), asked) for m in METRICS}
            for arm in arms
        }
        for day in days
    }
    mismatch = sample_ratio_mismatch(users, shares)
    guardrails = {str(metric): loss for metric, loss in config.guardrails.items()}
    verdicts = {
        arm: judge_arm(by_day[days[-1]][arm], config.primary, guardrails, mismatch, config.mismatch) for arm in arms
    }
    return ReadOut(days[0], days[-1], config.control, config.primary, mismatch, crossed, by_day, verdicts)


def arm_shares(users: Mapping[str, int], config: ExperimentConfig) -> dict[str, float]:
    """Return the share that each arm was to get; arms that the configuration does not know are refused as above."""
    if config.control not in users:
        raise ConfigError(
            f"experiment.control {config.control!r} is no arm of the assignment table, which has "
            f"{', '.join(sorted(users))}; name one of them"
        )
    if len(users) < 2:
        raise DataError(
            f"experiment.assignments: {config.control!r} is the only arm; there is nothing to compare it with"
        )
    if config.shares and config.shares.keys() != users.keys():
        raise ConfigError(
            f"experiment.shares names {', '.join(sorted(config.shares))}, the assignment table has "
            f"{', '.join(sorted(users))}; give each arm a share"
        )
    return config.shares or dict.fromkeys(users, 1.0)
