"""Events -> interactions: one row per user, item and part of the split."""

from __future__ import annotations

import datetime as dt

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.config import DatasetConfig
from recsys_spark.dataset.kcore import k_core
from recsys_spark.dataset.splits import split_by_column, split_by_time, split_leave_one_out

BATCH_IN_PATH = r"batch=([^/]+)/"


def first_delivery(events: DataFrame) -> DataFrame:
    """Keep each event of a read over several batches once: as its earliest batch delivered it."""
    batch = F.regexp_extract(F.col("_metadata.file_path"), BATCH_IN_PATH, 1).alias("_batch")
    columns = [c for c in events.columns if c != "event_id"]
    earliest = F.min(F.struct(batch, *columns)).alias("first")
    return events.groupBy("event_id").agg(earliest).select("event_id", "first.*").drop("_batch")


def weigh(events: DataFrame, weights: dict[str, float]) -> DataFrame:
    """Add the `weight` of each event's type; types of weight 0 are events but no interactions."""
    table = F.create_map(*(F.lit(x) for pair in weights.items() for x in pair))
    return events.withColumn("weight", table[F.col("event_type")]).where("weight > 0")


def build_interactions(events: DataFrame, config: DatasetConfig, until: dt.date) -> DataFrame:
    """Split, aggregate and mark the k-core of the training part.

    The k-core looks at training rows only: which rows a model learns from must not depend on what is
    measured. Held-out rows stay as they are.

    Args:
        events: weighed events with dense `user_id` and `item_id`.

    Returns:
        The columns of `INTERACTIONS`.
    """
    if config.split == "time":
        rows = _aggregate(split_by_time(events, until, config.valid_days, config.test_days), "split")
    elif config.split == "column":
        rows = _aggregate(split_by_column(events), "split")
    else:
        rows = split_leave_one_out(_aggregate(events))
    rows = rows.persist()
    core = k_core(rows.where("split = 'train'").select("user_id", "item_id"), config.k_core)
    marked = core.select("user_id", "item_id", F.lit("train").alias("split"), F.lit(True).alias("in_core"))
    joined = rows.join(marked, ["user_id", "item_id", "split"], "left")
    return joined.withColumn("in_core", F.coalesce("in_core", F.lit(False)))


def _aggregate(events: DataFrame, *keys: str) -> DataFrame:
    """Sum weights and take the last time and the last rating of each user and item (and key)."""
    rated = F.when(F.col("rating").isNotNull(), F.struct("timestamp", "rating"))
    return events.groupBy("user_id", "item_id", *keys).agg(
        F.sum("weight").alias("weight"),
        F.max(rated)["rating"].alias("rating"),
        F.max("timestamp").cast("long").alias("timestamp"),
    )
