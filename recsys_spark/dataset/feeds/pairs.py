"""The feed of pairs: one row per positive, with what the user had before. Two towers and NeuMF learn from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from recsys_spark.config import Config
from recsys_spark.dataset.feeds.writer import write_rows
from recsys_spark.errors import DataError


def write_pairs(spark: SparkSession, interactions: DataFrame, config: Config, path: Path) -> dict[str, Any]:
    """Write the pairs of the training part's core below `path` and return the manifest's entries.

    Rows (`data/`): `user_id`, `item_id`, `weight`, and `history`, the `dataset.history_length` items before
    in the core, by time and then item id, padded with 0 on the left. Beside them, how often each user and item
    occurs (`users/`, `items/`: id and `count`), which tells a model what it was trained on.

    Raises:
        DataError: the k-core left no row.
    """
    train = core_rows(interactions).persist()
    count = train.count()
    check_not_empty(count, config)
    # the entries of its own: `n_users` and `n_items` are the largest ids + 1
    sizes = {}
    for name, key in (("users", "user_id"), ("items", "item_id")):
        counts = train.groupBy(key).agg(F.count("*").cast("int").alias("count"))
        counts.sort(key).coalesce(1).write.parquet(str(path / name))
        sizes[f"n_{name}"] = spark.read.parquet(str(path / name)).agg(F.max(key)).first()[0] + 1
    rows = pair_rows(train, config.dataset.history_length)
    written = write_rows(spark, rows, count, path, ["user_id", "item_id"], config)
    train.unpersist()
    return {
        "table": "feeds/pairs", "kind": "pairs", "history_length": config.dataset.history_length, **written, **sizes,
    }  # fmt: skip


def pair_rows(train: DataFrame, length: int) -> DataFrame:
    """Return `user_id`, `item_id`, `weight` and `history` [length] of training rows.

    A sliding frame of `length` rows: a user of n rows costs n × length, and holds no list of all n.
    """
    before = Window.partitionBy("user_id").orderBy("timestamp", "item_id").rowsBetween(-length, -1)
    past = train.withColumn("past", F.collect_list("item_id").over(before))
    padding = F.array_repeat(F.lit(0), F.lit(length) - F.size("past"))
    weight = F.col("weight").cast("float").alias("weight")
    return past.select("user_id", "item_id", weight, F.concat(padding, "past").alias("history"))


def core_rows(interactions: DataFrame) -> DataFrame:
    """Return the training rows that survived the k-core: what models of users and items learn from."""
    return interactions.where("split = 'train' and in_core").select("user_id", "item_id", "weight", "timestamp")


def check_not_empty(count: int, config: Config) -> None:
    """Raise a `DataError` if the core has no row."""
    if not count:
        raise DataError(
            f"no interaction survives dataset.k_core={config.dataset.k_core}; lower it, or bring a larger log"
        )
