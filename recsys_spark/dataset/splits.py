"""Which part of the log a row belongs to: train, valid or test.

The promise of every split but `random`: a training row never comes from after what is measured, within the
split's own notion of after.
"""

from __future__ import annotations

import datetime as dt

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.errors import DataError

PARTS = ("train", "valid", "test")
GAP = "gap"
PARTS_AND_GAP = (*PARTS, GAP)
_DRAWS = 1 << 30


def time_part(date: Column, until: dt.date, valid_days: int, test_days: int, gap_days: int = 0) -> Column:
    """Return the part of a UTC day: the last `test_days` up to and with `until` are test, then come valid and gap.

    With one day each and no gap, a row of `until` is test, one of the day before is valid, and midnight belongs
    to the day it begins. What lies in the gap is known of a user, and not learnt from:

        until = 10th, test_days = 1, valid_days = 2, gap_days = 3
        … 4th train | 5th 6th 7th gap | 8th 9th valid | 10th test

    Args:
        date: days, none after `until`.
    """
    test_from = until - dt.timedelta(days=test_days - 1)
    valid_from = test_from - dt.timedelta(days=valid_days)
    gap_from = valid_from - dt.timedelta(days=gap_days)
    part = F.when(date >= F.lit(test_from), "test").when(date >= F.lit(valid_from), "valid")
    return part.when(date >= F.lit(gap_from), GAP).otherwise("train")


def rolling_origins(until: dt.date, folds: int, step_days: int) -> list[dt.date]:
    """Return the run dates of a rolling-origin cross-validation, oldest first.

    Each fold is the night of its date as it would have been: it learns from what came before its own valid and
    test days and never sees the days after.

    >>> [str(day) for day in rolling_origins(dt.date(2026, 1, 10), folds=3, step_days=2)]
    ['2026-01-06', '2026-01-08', '2026-01-10']
    """
    return [until - dt.timedelta(days=step_days * fold) for fold in reversed(range(folds))]


def check_column(events: DataFrame) -> None:
    """Hold the split that the log ships against the parts there are.

    Raises:
        DataError: a row says something else than train, valid or test.
    """
    wrong = events.where(F.col("split").isNull() | ~F.col("split").isin(*PARTS)).select("split").first()
    if wrong is not None:
        raise DataError(f"the log's split column says {wrong.split!r}; each row has to say train, valid or test")


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


def split_at_random(pairs: DataFrame, valid_share: float, test_share: float, seed: int) -> DataFrame:
    """Split by a seeded hash of user and item: the same pairs are test however often, and wherever, it is run.

    A user's later items may be in train and the earlier in test: what is measured so flatters every model that
    looks at the order of things.
    """
    draw = F.pmod(F.xxhash64("user_id", "item_id", F.lit(seed)), F.lit(_DRAWS)) / _DRAWS
    part = F.when(draw < test_share, "test").when(draw < test_share + valid_share, "valid").otherwise("train")
    return pairs.withColumn("split", part)
