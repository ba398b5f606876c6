"""What the user did before the event: simultaneous events see nothing of each other."""

from __future__ import annotations

from pyspark.sql import DataFrame, Window, WindowSpec
from pyspark.sql import functions as F

RECENCY_CAP_HOURS = 720.0
"""Hours since the last interaction are capped here, and are this much where there was none."""

FLOATS = ("user_activity", "user_recency_hours")


def before(*keys: str) -> WindowSpec:
    """Return the window of rows with the same keys that are at least one microsecond older."""
    return Window.partitionBy(*keys).orderBy("_us").rangeBetween(Window.unboundedPreceding, -1)


def add_user_features(events: DataFrame) -> DataFrame:
    """Add the user's features to events.

    `user_activity` = log(1 + past interactions), `user_recency_hours` = hours since the last of them.

    Args:
        events: with `user_id`, `_us` (microseconds since 1970 UTC) and `_acts` (1 for an interaction, else 0).

    Returns:
        The events with the features, and `_past`, the number of past interactions.
    """
    past = before("user_id")
    count = F.coalesce(F.sum("_acts").over(past), F.lit(0))
    last = F.max(F.when(F.col("_acts") == 1, F.col("_us"))).over(past)
    hours = (F.col("_us") - F.col("_last")) / F.lit(3_600_000_000)
    cap = F.lit(RECENCY_CAP_HOURS)
    return (
        events.withColumns({"_past": count, "_last": last})
        .withColumns({
            "user_activity": F.log1p(F.col("_past").cast("double")),
            "user_recency_hours": F.least(F.coalesce(hours, cap), cap),
        })
        .drop("_last")
    )  # fmt: skip
