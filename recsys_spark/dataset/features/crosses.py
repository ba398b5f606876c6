"""Features of two things at once."""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.dataset.features.user import before

FLOATS = ("user_taste",)
CROSS_BUCKETS = 64
"""Ids that a hashed pair may get; two pairs may share one."""
SIZES = {"device_hour": CROSS_BUCKETS + 1}
_HOURS = 6
"""Hours of the day in a bucket of `device_hour`."""


def add_crosses(events: DataFrame) -> DataFrame:
    """Add `user_taste` and `device_hour`.

    `user_taste` = Σ over the item's categories of the user's past interactions with items of that category / all of
    the user's past interactions; 0 without either. `device_hour` hashes the device and the quarter of the day to 1 up
    to `CROSS_BUCKETS`; 0 without a device.

    Args:
        events: with `user_id`, `_us`, `_acts`, `_past`, `categories`, `device` and `hour`.
    """
    pair = F.xxhash64("device", F.floor(F.col("hour") / _HOURS).cast("int"))
    hashed = F.pmod(pair, F.lit(CROSS_BUCKETS)).cast("int") + 1
    return _add_alike(events).withColumns({
        "device_hour": F.when(F.col("device").isNull(), 0).otherwise(hashed),
        "user_taste": F.when(F.col("_past") == 0, 0.0).otherwise(F.col("_alike") / F.col("_past")),
    }).drop("_alike")  # fmt: skip


def _add_alike(events: DataFrame) -> DataFrame:
    """Add `_alike`: Σ over the event's categories of the user's past interactions with an item of that category.

    A row per event and category, and back to one per event: all in the partition of the user, so nothing is shuffled.
    """
    events = events.withColumn("_event", F.monotonically_increasing_id())
    each = events.select("*", F.posexplode_outer("categories").alias("_place", "_category"))
    past = F.when(F.col("_category").isNotNull(), F.sum("_acts").over(before("user_id", "_category")))
    alike = F.coalesce(F.sum("_past_of_category").over(Window.partitionBy("user_id", "_event")), F.lit(0))
    counted = each.withColumn("_past_of_category", past).withColumn("_alike", alike)
    one = counted.where(F.coalesce("_place", F.lit(0)) == 0)
    return one.drop("_event", "_place", "_category", "_past_of_category")
