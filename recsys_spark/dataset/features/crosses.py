"""Features of two things at once."""

from __future__ import annotations

from pyspark.sql import DataFrame
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

    `user_taste` = the user's past interactions with items of this item's category / all of the user's past
    interactions; 0 without either. `device_hour` hashes the device and the quarter of the day to 1 up to
    `CROSS_BUCKETS`; 0 without a device.

    Args:
        events: with `user_id`, `_us`, `_acts`, `_past`, `category`, `device` and `hour`.
    """
    alike = F.coalesce(F.sum("_acts").over(before("user_id", "category")), F.lit(0))
    pair = F.xxhash64("device", F.floor(F.col("hour") / _HOURS).cast("int"))
    hashed = F.pmod(pair, F.lit(CROSS_BUCKETS)).cast("int") + 1
    return events.withColumns({
        "_alike": alike,
        "device_hour": F.when(F.col("device").isNull(), 0).otherwise(hashed),
    }).withColumn(
        "user_taste",
        F.when(F.col("category").isNull() | (F.col("_past") == 0), 0.0).otherwise(F.col("_alike") / F.col("_past")),
    ).drop("_alike")  # fmt: skip
