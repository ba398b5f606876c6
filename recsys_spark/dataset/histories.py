"""What was known of each user at three moments, beside what was held out after it."""

from __future__ import annotations

from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.dataset.splits import GAP, PARTS


def build_histories(interactions: DataFrame, users: DataFrame) -> DataFrame:
    """Return a row per user and moment, with the columns of `HISTORIES`.

    What lies in the gap of a time split is known at every moment, though no model learnt from it.
    `known = train` stands beside the valid part as truth, `known = valid` (train and valid together) beside
    the test part, and `known = test` is everything, for publishing. A held-out item that the user already
    had is no truth: the models may not recommend it again.

    Args:
        users: `user_id` and `last_day` of everyone with an event; who never did more than look has an empty
            history in `known = test` and is served as a cold user.
    """
    return reduce(DataFrame.unionByName, (_known(interactions, users, i) for i in range(len(PARTS))))


def _known(interactions: DataFrame, users: DataFrame, upto: int) -> DataFrame:
    rating = F.coalesce("rating", F.lit(float("nan")).cast("float"))
    seen = interactions.where(F.col("split").isin(*PARTS[: upto + 1], GAP))
    # an item may stand in several parts: its weights add up, its last rating counts
    pairs = seen.groupBy("user_id", "item_id").agg(
        F.sum("weight").cast("float").alias("weight"),
        F.max("timestamp").alias("timestamp"),
        F.max_by(rating, F.struct(F.col("rating").isNotNull(), "timestamp")).alias("rating"),
    )
    ordered = F.sort_array(F.collect_list(F.struct("timestamp", "item_id", "weight", "rating"))).alias("h")
    history = pairs.groupBy("user_id").agg(ordered)
    if upto + 1 < len(PARTS):
        later = interactions.where(F.col("split") == PARTS[upto + 1])
        fresh = later.join(pairs.select("user_id", "item_id"), ["user_id", "item_id"], "left_anti")
        truth = F.sort_array(F.collect_list(F.struct("item_id", rating.alias("rating")))).alias("t")
        history = history.join(fresh.groupBy("user_id").agg(truth), "user_id", "full")
        history = history.withColumn("last_day", F.lit(None).cast("date"))
    else:
        history = users.join(history, "user_id", "left")
        history = history.withColumn("t", F.lit(None).cast("array<struct<item_id:int,rating:float>>"))
    return history.select(
        F.lit(PARTS[upto]).alias("known"),
        "user_id",
        _or_empty("h.item_id", "int").alias("items"),
        _or_empty("h.weight", "float").alias("weights"),
        _or_empty("h.rating", "float").alias("ratings"),
        _or_empty("t.item_id", "int").alias("held_out"),
        _or_empty("t.rating", "float").alias("held_out_ratings"),
        "last_day",
    )


def _or_empty(column: str, kind: str) -> Column:
    return F.coalesce(F.col(column), F.array().cast(f"array<{kind}>"))
