"""Before an experiment: what the log says about how many users it needs."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.config import ExperimentConfig
from recsys_spark.evaluation.ab.daily import METRICS, SIZE
from recsys_spark.evaluation.ab.effect import DENOMINATOR, NUMERATOR, adjusted, cuped
from recsys_spark.evaluation.ab.power import detectable_effect, users_needed
from recsys_spark.evaluation.ab.users import Looks
from recsys_spark.evaluation.user_sums import Moments

EVERYONE = "everyone"
_LIFTS = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Plan:
    """What an experiment on a metric would need, by the users of the last days."""

    value: float
    users: int
    """Users who came within `experiment.days`."""
    variance_left: float
    """Variance with CUPED / without."""
    detectable: float
    """Least relative change that these users, in two equal arms, would show with the wanted power."""
    needed: dict[float, int]
    """Relative change -> users of both arms."""


def as_if_assigned(events: DataFrame, until: dt.date, days: int) -> DataFrame:
    """Give everyone who came in the last days the arm `EVERYONE`, at the first event there."""
    recent = events.where(F.col("date") > F.lit(until - dt.timedelta(days=days)))
    first = recent.groupBy("user_id").agg(F.min("timestamp").alias("assigned_at"))
    return first.select("user_id", F.lit(EVERYONE).alias("arm"), "assigned_at")


def plan(looks: Looks, until: dt.date, config: ExperimentConfig) -> dict[str, Plan]:
    """Return the plan for every metric that has a value, for half the expected lift, the lift, and twice it."""
    found = {}
    for name in METRICS:
        moments = looks.get((until, EVERYONE, name), Moments.empty(SIZE))
        raw = moments.ratio(NUMERATOR, DENOMINATOR)
        if not raw.value > 0 or not raw.error > 0:
            continue
        theta, slope = cuped(moments, Moments.empty(SIZE))
        error = adjusted(moments, theta, slope, moments).error
        deviation, alpha = error * math.sqrt(raw.n), 1 - config.confidence
        lifts = [config.expected_lift * factor for factor in _LIFTS]
        found[name] = Plan(
            raw.value, raw.n, (error / raw.error) ** 2,
            detectable_effect(2 * error, alpha, config.power) / raw.value,  # two halves: σ sqrt(2/n + 2/n)
            {lift: users_needed(lift * raw.value, deviation, alpha, config.power) for lift in lifts},
        )  # fmt: skip
    return found
