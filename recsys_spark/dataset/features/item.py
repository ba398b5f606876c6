"""What was known of the item on the days before the event's, and what the catalogue says.

Popularity is counted by day: a table of items and days is small however popular an item is, where a window
over all events of one item would be one task's work.
"""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

FLOATS = ("item_last_day", "item_last_week", "item_trend", "item_age_days", "item_price")
DAILY = FLOATS[:4]


def add_catalogue(events: DataFrame, items: DataFrame) -> DataFrame:
    """Add `categories`, each once, `category`, the first of them, and `item_price` = log(1 + price), null without one.

    Args:
        items: one row per dense `item_id`, with the columns of `ITEMS`. A catalogue has no history: these two are as
            of the night, not of the event.
    """
    price = F.log1p(F.col("price").cast("double")).alias("item_price")
    first = F.get("categories", F.lit(0)).alias("category")
    each = F.array_distinct("categories").alias("categories")
    return events.join(items.select("item_id", each, first, price), "item_id", "left")


def popularity(events: DataFrame) -> DataFrame:
    """Return the item features of every item and day on which it had an event: `item_id`, `date` and `DAILY`.

    With n1 and n7 the interactions of the day and of the 7 days before the event's day,
    `item_last_day` = log(1 + n1), `item_last_week` = log(1 + n7), `item_trend` = (n1 + 1) / (n7 / 7 + 1), and
    `item_age_days` the days since the item's first event of an earlier day, 0 where there was none.

    Args:
        events: with `item_id`, `date` (UTC day), `_acts` and `_real`.
    """
    daily = events.groupBy("item_id", "date").agg(F.sum("_acts").alias("n"), F.max("_real").alias("real"))
    daily = daily.withColumn("day", F.unix_date("date"))
    days = Window.partitionBy("item_id").orderBy("day")
    ever, one, week = days.rangeBetween(Window.unboundedPreceding, -1), days.rangeBetween(-1, -1), (-7, -1)
    none, since = F.lit(0), F.min(F.when(F.col("real") == 1, F.col("day")))
    counted = daily.withColumns({
        "n1": F.coalesce(F.sum("n").over(one), none).cast("double"),
        "n7": F.coalesce(F.sum("n").over(days.rangeBetween(*week)), none).cast("double"),
        "age": F.coalesce(F.col("day") - since.over(ever), none).cast("double"),
    })  # fmt: skip
    trend = (F.col("n1") + 1) / (F.col("n7") / 7 + 1)
    return counted.select(
        "item_id", "date", F.log1p("n1").alias("item_last_day"), F.log1p("n7").alias("item_last_week"),
        trend.alias("item_trend"), F.col("age").alias("item_age_days"),
    )  # fmt: skip
