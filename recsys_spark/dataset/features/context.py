"""The circumstances of the event: when, on what, and where on the page."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.dataset.features.user import before

MAX_POSITION = 100
"""Positions beyond count as this one; 0 = unknown."""

SIZES = {"hour": 24, "weekday": 7, "position": MAX_POSITION + 1}
"""Numbers of ids of the columns that are ids as they stand."""
TEXTS = ("device", "country")
FLOATS = ("session_events",)
_HOUR = 3_600_000_000  # microseconds


def add_context(events: DataFrame) -> DataFrame:
    """Add `hour` (0-23) and `weekday` (0 = Monday) in UTC, a bounded `position`, and `session_events`.

    `session_events` = log(1 + the user's earlier events of any type in the session), 0 without a session.

    Args:
        events: with `user_id`, `_us`, `_real`, `position` and `session_id`.
    """
    earlier = F.coalesce(F.sum("_real").over(before("user_id", "session_id")), F.lit(0))
    hours = F.floor(F.col("_us") / _HOUR)  # exact: a double holds microseconds of this age
    position = F.least(F.greatest(F.coalesce(F.col("position"), F.lit(0)), F.lit(0)), F.lit(MAX_POSITION))
    return events.withColumns({
        "hour": F.pmod(hours, F.lit(24)).cast("int"),
        "weekday": F.pmod(F.floor(hours / 24) + 3, F.lit(7)).cast("int"),  # 1970-01-01 was a Thursday
        "position": position.cast("int"),
        "session_events": F.when(F.col("session_id").isNull(), 0.0).otherwise(F.log1p(earlier.cast("double"))),
    })  # fmt: skip
