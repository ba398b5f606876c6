"""Which part of the log a row belongs to: train, valid or test.

The promise of every split: a training row never comes from after what is measured, within the split's own
notion of after.
"""

from __future__ import annotations

import datetime as dt

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.errors import DataError

PARTS = ("train", "valid", "test")


def split_by_time(events: DataFrame, until: dt.date, valid_days: int, test_days: int) -> DataFrame:
    """Split by UTC day: the last `test_days` up to and with `until` are test, the `valid_days` before valid.

    Args:
        events: rows with a `date`, none after `until`.

    Returns:
        The rows with `split`. With one day each, a row of `until` is test, one of the day before is valid,
        and midnight belongs to the day it begins.
    """
    test_from = until - dt.timedelta(days=test_days - 1)
    valid_from = test_from - dt.timedelta(days=valid_days)
    part = F.when(F.col("date") >= F.lit(test_from), "test").when(F.col("date") >= F.lit(valid_from), "valid")
    return events.withColumn("split", part.otherwise("train"))


def split_by_column(events: DataFrame) -> DataFrame:
    """Take the split that the log ships.

    Raises:
        DataError: a row says something else than train, valid or test.
    """
    wrong = events.where(F.col("split").isNull() | ~F.col("split").isin(*PARTS)).select("split").first()
    if wrong is not None:
        raise DataError(f"the log's split column says {wrong.split!r}; each row has to say train, valid or test")
    return events


def split_leave_one_out(pairs: DataFrame) -> DataFrame:
    """Make each user's last item test and the last but one valid; users with fewer than three stay in train.

    Args:
        pairs: one row per (user_id, item_id) with the `timestamp` of the last event; at equal times the
            larger item id counts as the later.
    """
    newest = Window.partitionBy("user_id").orderBy(F.desc("timestamp"), F.desc("item_id"))
    everything = Window.partitionBy("user_id")
    ranked = pairs.withColumn("_rank", F.row_number().over(newest)).withColumn("_n", F.count("*").over(everything))
    enough = F.col("_n") >= 3
    part = F.when(enough & (F.col("_rank") == 1), "test").when(enough & (F.col("_rank") == 2), "valid")
    return ranked.withColumn("split", part.otherwise("train")).drop("_rank", "_n")
