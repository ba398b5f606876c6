"""Features at the moments at which lists are made: of every user and every item, by the code that described the events.

A list is asked for on the day after what is known: of each user one event that never was stands for it, at the time
of day, on the device and in the country of their last one, outside of any session and at no position. What a ranking
model reads of a user and a candidate is put together from two small tables. They are not encoded, because a champion of
another night brings its own encoding.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.config import Config
from recsys_spark.dataset.features import context, crosses, item, user
from recsys_spark.dataset.features.describe import mark
from recsys_spark.dataset.splits import PARTS

OF_USERS, OF_ITEMS = "of_users", "of_items"
_ASKED = ("device", "country", "hour", "weekday", "device_hour", *user.FLOATS, *context.FLOATS)


def write_moments(parted: DataFrame, items: DataFrame, config: Config, until: dt.date, path: Path) -> None:
    """Write the features at each moment of the table `histories` below `path`, in `known=PART/`.

    Args:
        parted: all events with dense ids and `_part`, null for one that is known and belongs to no part.
        items: the catalogue with dense ids.
    """
    for place, known in enumerate(PARTS):
        events = parted.where(F.col("_part").isNull() | F.col("_part").isin(*PARTS[: place + 1]))
        found = describe_moment(events, items, config.log.weights, asked_on(known, config, until))
        for name, rows in zip((OF_USERS, OF_ITEMS), found, strict=True):
            rows.write.parquet(str(path / f"known={known}" / name))


def asked_on(known: str, config: Config, until: dt.date) -> dt.date:
    """Return the first day of what comes after the known parts; without a split by time, the day after `until`."""
    dataset = config.dataset
    later = {"train": dataset.valid_days + dataset.test_days, "valid": dataset.test_days, "test": 0}
    back = later[known] if dataset.split == "time" else 0
    return until + dt.timedelta(days=1 - back)


def describe_moment(
    known: DataFrame, items: DataFrame, weights: dict[str, float], day: dt.date
) -> tuple[DataFrame, DataFrame]:
    """Return what is known of users and of items on a day, before anything of that day has happened.

    Args:
        known: events with dense ids; those of the day and later have to be left out.

    Returns:
        A row per user with an event: `user_id`, the features of `_ASKED`, and `taste`, by category the feature
        `user_taste` of an item of that category alone, where it is not 0. A row per item with an event: `item_id`,
        `categories`, `category` and the features of items.
    """
    rows = mark(known, weights)
    return _of_users(rows, items, day), _of_items(rows, items, day)


def _of_items(rows: DataFrame, items: DataFrame, day: dt.date) -> DataFrame:
    there, no = rows.select("item_id").distinct(), F.lit(0)
    asked = there.select("item_id", F.lit(day).alias("date"), no.alias("_acts"), no.alias("_real"))
    daily = item.popularity(rows.select(*asked.columns).unionByName(asked)).where(F.col("date") == day)
    return item.add_catalogue(asked.select("item_id"), items).join(daily.drop("date"), "item_id")


def _of_users(rows: DataFrame, items: DataFrame, day: dt.date) -> DataFrame:
    last = F.max(F.struct("_us", "device", "country")).alias("last")
    clock = F.pmod(F.col("last._us"), F.lit(86_400_000_000))
    days = (day - dt.date(1970, 1, 1)).days
    users = rows.groupBy("user_id").agg(last).select(
        "user_id", (F.lit(days * 86_400_000_000) + clock).alias("_us"), "last.device", "last.country",
        F.lit(None).cast("string").alias("session_id"), F.lit(None).cast("int").alias("position"),
        F.lit(0).alias("_acts"), F.lit(0).alias("_real"), F.lit(True).alias("_asks"),
    )  # fmt: skip
    acts = item.add_catalogue(rows.where("_acts = 1").select("user_id", "item_id", "_us", "_acts"), items)
    acts = acts.select("user_id", "_us", "_acts", "categories", F.lit(False).alias("_asks"))
    # the question once for each category that the user has had to do with, and once for none
    liked = acts.select("user_id", F.explode("categories").alias("_category")).where("_category is not null")
    liked = liked.distinct().select("user_id", F.array("_category").alias("categories"))
    asks = users.withColumn("categories", F.array().cast("array<string>")).unionByName(users.join(liked, "user_id"))
    every = asks.unionByName(acts, allowMissingColumns=True)
    described = crosses.add_crosses(context.add_context(user.add_user_features(every))).where("_asks")
    category = F.get("categories", F.lit(0))
    tastes = F.collect_list(F.when(category.isNotNull(), F.struct(category.alias("category"), "user_taste")))
    features = [F.max(name).alias(name) for name in _ASKED]  # the same in all rows of a user
    return described.groupBy("user_id").agg(*features, F.map_from_entries(F.sort_array(tastes)).alias("taste"))
