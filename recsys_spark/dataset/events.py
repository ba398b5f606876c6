"""The live events of a run date, as the data set reads them: hashed, numbered, each event once."""

from __future__ import annotations

import datetime as dt

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.dataset.ids import key_of, read_dictionary
from recsys_spark.log.raw import WHOLE
from recsys_spark.warehouse import Version


def read_events(spark: SparkSession, events: dict[str, Version], until: dt.date) -> DataFrame:
    """Read the events up to a day.

    Returns:
        The columns of `EVENTS`, `delivered` (int: days from 1970 to the batch's day; 0 for a whole log) and
        `event_key` (long: hash of the event's id).
    """
    versions = list(events.values())
    # The batch is a folder above the version: found as a partition, it costs nothing per row.
    folder = versions[0].path.parents[1]
    rows = spark.read.option("basePath", str(folder)).parquet(*(v.data for v in versions))
    if set(events) == {WHOLE}:
        delivered = F.lit(0)
    else:
        delivered = F.datediff(F.col("batch").cast("date"), F.lit(dt.date(1970, 1, 1)))
    rows = rows.where(F.col("date") <= F.lit(until))
    return rows.withColumns({"delivered": delivered, "event_key": F.xxhash64("event_id")}).drop("batch")


def rows_by_type(spark: SparkSession, events: dict[str, Version], until: dt.date) -> dict[str, int]:
    """Count the events up to a day by type, from the files themselves."""
    rows = spark.read.parquet(*(v.data for v in events.values())).where(F.col("date") <= F.lit(until))
    return {r["event_type"]: r["count"] for r in rows.groupBy("event_type").count().collect()}


def number(spark: SparkSession, events: DataFrame, users: Version, items: Version) -> DataFrame:
    """Put dense ids (int) in the place of the log's `user_id` and `item_id`; whoever has none is left out."""
    for column, version in (("user_id", users), ("item_id", items)):
        dictionary, salt = read_dictionary(spark, version, column, "_id")
        keyed = events.withColumn(f"{column}_key", key_of(F.col(column), salt)).drop(column)
        events = keyed.join(dictionary, f"{column}_key").drop(f"{column}_key").withColumnRenamed("_id", column)
    return events


def each_once(numbered: DataFrame) -> DataFrame:
    """Keep each event once, as its earliest batch delivered it.

    An event is its id together with its user and item: a producer whose ids are unique for a user only loses
    nothing, and all copies of an event lie on the partition of their user and item.
    """
    rest = [c for c in numbered.columns if c not in ("user_id", "item_id", "event_key", "delivered")]
    first = F.min_by(F.struct(*rest), "delivered").alias("first")
    return numbered.groupBy("user_id", "item_id", "event_key").agg(first).select("user_id", "item_id", "first.*")
