"""The feed of sequences: one row per window of a user's training history, for models that read it in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from recsys_spark.config import Config
from recsys_spark.dataset.feeds.pairs import check_not_empty, core_rows
from recsys_spark.dataset.feeds.writer import write_rows
from recsys_spark.errors import DataError

LEAST_ITEMS = 2
"""A single item gives nothing to predict."""


def write_sequences(spark: SparkSession, interactions: DataFrame, config: Config, path: Path) -> dict[str, Any]:
    """Write the windows of the training part's core below `path` and return the manifest's entries.

    Rows (`data/`): `user_id`, `items`, `weights` and `times` [dataset.history_length], oldest first, padded
    with 0 on the left, and `length`, how many are no padding. `times` are seconds since 1970 UTC.

    Raises:
        DataError: the k-core left no row, or no user has two.
    """
    train = core_rows(interactions)
    length = config.dataset.history_length
    rows = sequence_rows(train, length, config.dataset.sequence_stride or length).persist()
    count = rows.count()
    if not count:
        check_not_empty(train.count(), config)
        raise DataError(
            "no user has two training interactions, so there is no sequence; take sequences out of dataset.feeds"
        )
    top = train.agg(F.max("user_id"), F.max("item_id")).first()
    written = write_rows(spark, rows, count, path, ["user_id", "_window"], config)
    rows.unpersist()
    return {
        "table": "feeds/sequences", "kind": "sequences", "history_length": length, **written,
        "n_users": top[0] + 1, "n_items": top[1] + 1,
    }  # fmt: skip


def sequence_rows(train: DataFrame, length: int, stride: int) -> DataFrame:
    """Cut each user's items, by time and then item id, into windows of up to `length`.

    Counted from the newest, window w is the items at w × stride up to w × stride + length; the last window is
    moved so that it ends with the oldest item and is as long as the others. So the newest window ends at the
    newest item, every item is in some window, and only a history shorter than `length` is padded. A user's items
    are dealt to windows by their positions, and no row ever holds a whole history.

    Args:
        stride: 1 to `length`.

    Returns:
        The feed's columns and `_window`, which with `user_id` identifies a row.
    """
    newest = Window.partitionBy("user_id").orderBy(F.desc("timestamp"), F.desc("item_id"))
    ranked = train.withColumn("back", F.row_number().over(newest) - 1)
    ranked = ranked.withColumn("n", F.count("*").over(Window.partitionBy("user_id"))).where(F.col("n") >= LEAST_ITEMS)
    last = F.ceil(F.greatest(F.col("n") - length, F.lit(0)) / stride).cast("int")
    oldest_start = F.greatest(F.col("n") - length, F.lit(0))
    first_of_row = F.greatest(F.ceil((F.col("back") - length + 1) / stride), F.lit(0)).cast("int")
    last_of_row = F.least(F.floor(F.col("back") / stride).cast("int"), last - 1)
    regular = F.when(last_of_row >= first_of_row, F.sequence(first_of_row, last_of_row))
    moved = F.when(F.col("back") >= oldest_start, F.array(last))
    none = F.array().cast("array<int>")
    windows = F.concat(F.coalesce(regular, none), F.coalesce(moved, none))
    dealt = ranked.withColumn("_window", F.explode(windows))
    item = F.struct((-F.col("back")).alias("order"), "item_id", F.col("weight").cast("float").alias("weight"),
                    F.col("timestamp").cast("bigint").alias("time"))  # fmt: skip
    grouped = dealt.groupBy("user_id", "_window").agg(F.sort_array(F.collect_list(item)).alias("h"))
    return grouped.select(
        "user_id",
        _padded("item_id", "int", length).alias("items"),
        _padded("weight", "float", length).alias("weights"),
        _padded("time", "bigint", length).alias("times"),
        F.size("h").alias("length"),
        "_window",
    )


def _padded(field: str, kind: str, length: int) -> Column:
    return F.concat(F.array_repeat(F.lit(0).cast(kind), F.lit(length) - F.size("h")), F.col(f"h.{field}"))
