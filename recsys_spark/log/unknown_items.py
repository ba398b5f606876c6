"""How many events are of items that the catalogue does not have."""

from __future__ import annotations

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from recsys_spark.log.raw import WHOLE
from recsys_spark.schemas import EVENTS, ITEMS
from recsys_spark.warehouse import Version


def unknown_events(spark: SparkSession, batch: str, events: Version, items: Version) -> int:
    """Return how many events of the batch's own day name an item that the catalogue lacks.

    It is no part of a profile: the catalogue changes under the days before, which nobody judges again.
    """
    rows = spark.read.schema(EVENTS.schema).parquet(events.data)
    own = rows if batch == WHOLE else rows.where(F.col("date") == F.lit(batch).cast("date"))
    known = spark.read.schema(ITEMS.schema).parquet(items.data).select("item_id")
    unknown = own.groupBy("item_id").count().join(known, "item_id", "left_anti")
    return int(unknown.agg(F.coalesce(F.sum("count"), F.lit(0))).first()[0])
