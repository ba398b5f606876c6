"""Events up to a run date -> dictionaries, interactions, histories and the training feed."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.config import Config
from recsys_spark.dataset.histories import build_histories
from recsys_spark.dataset.ids import extend_dictionary
from recsys_spark.dataset.interactions import build_interactions, first_delivery, weigh
from recsys_spark.dataset.splits import PARTS
from recsys_spark.dataset.training_feed import write_feed
from recsys_spark.errors import DataError
from recsys_spark.schemas import HISTORIES, INTERACTIONS, ITEM_IDS, USER_IDS
from recsys_spark.warehouse import Version, Warehouse, fingerprint

_CODE = ("dataset", "schemas.py")


@dataclass(frozen=True)
class Dataset:
    """The versions that training, evaluation and publishing of one run date read."""

    interactions: Version
    histories: Version
    feed: Version

    @property
    def name(self) -> str:
        """The data version that every model and run is logged with."""
        return self.interactions.name


def build_dataset(
    spark: SparkSession, warehouse: Warehouse, config: Config, until: dt.date, events: dict[str, Version]
) -> Dataset:
    """Build the data set of a run date from the live events, or return the one that stands.

    Raises:
        DataError: no event up to the day, or nothing left to train on.
    """
    day = until.isoformat()
    inputs = {batch: version.name for batch, version in events.items()}
    settings = (config.dataset.model_dump(), config.log.weights, config.seed, day)
    name = f"{day}-{fingerprint(_CODE, settings, inputs)}"
    slots = {t: warehouse.slot(t, date=day) for t in (INTERACTIONS.name, HISTORIES.name, "feed")}

    def interactions(path: Path) -> dict[str, Any]:
        numbered = _numbered(spark, warehouse, config, until, events)
        rows = build_interactions(weigh(numbered, config.log.weights), config.dataset, until)
        INTERACTIONS.conform(rows).write.parquet(str(path / "data"))
        numbered.groupBy("user_id").agg(F.max("date").alias("last_day")).write.parquet(str(path / "users"))
        parts = dict.fromkeys(PARTS, 0)
        parts |= {r.split: r["count"] for r in _read(spark, path).groupBy("split").count().collect()}
        spark.catalog.clearCache()
        if not parts["train"]:
            raise DataError(f"nothing to train on before {until}; choose a later --date, or mend dataset.split")
        return {"table": "interactions", "rows": sum(parts.values()), "parts": parts, "events": inputs}

    made, _ = slots[INTERACTIONS.name].materialize(name, interactions, flip=False)
    rows = spark.read.parquet(made.data)
    users = spark.read.parquet(str(made.path / "users"))

    def histories(path: Path) -> dict[str, Any]:
        HISTORIES.conform(build_histories(rows, users)).write.partitionBy("known").parquet(str(path / "data"))
        count = F.count(F.when(F.size("held_out") > 0, True))
        held = {r.known: r.n for r in _read(spark, path).groupBy("known").agg(count.alias("n")).collect()}
        return {
            "table": "histories",
            "users_with_held_out": {"valid": held.get("train", 0), "test": held.get("valid", 0)},
        }

    def feed(path: Path) -> dict[str, Any]:
        return {**write_feed(spark, rows, config.dataset, config.seed, path), "interactions": made.name}

    built = Dataset(
        made,
        slots[HISTORIES.name].materialize(name, histories, flip=False)[0],
        slots["feed"].materialize(name, feed, flip=False)[0],
    )
    # live only when all three stand, so that a date's tables belong together
    for slot, version in zip(slots.values(), (built.interactions, built.histories, built.feed), strict=True):
        slot.flip(version)
    return built


def current_dataset(warehouse: Warehouse, until: dt.date) -> Dataset:
    """Return the live data set of a run date, or raise a `DataError` that says how to make it."""
    remedy = f"run jobs/build_dataset.py --date {until} first"
    day = until.isoformat()
    slots = (warehouse.slot(t, date=day) for t in (INTERACTIONS.name, HISTORIES.name, "feed"))
    found = Dataset(*(slot.require(remedy) for slot in slots))
    if not found.interactions.name == found.histories.name == found.feed.name:
        raise DataError(f"the data set of {until} is half made; {remedy}")
    return found


def _numbered(
    spark: SparkSession, warehouse: Warehouse, config: Config, until: dt.date, events: dict[str, Version]
) -> DataFrame:
    """Read the events once each, with dense ids."""
    rows = spark.read.parquet(*(v.data for v in events.values()))
    if len(events) > 1:
        rows = first_delivery(rows)
    rows = rows.where(F.col("date") <= F.lit(until)).persist()
    if rows.isEmpty():
        raise DataError(f"no event up to {until}; choose a later --date")
    for column, table in (("user_id", USER_IDS), ("item_id", ITEM_IDS)):
        ids = extend_dictionary(spark, warehouse.slot(table.name), table, rows.select(column))
        dictionary = spark.read.parquet(ids.data).select(F.col("raw_id").alias(column), F.col("id").alias("_id"))
        rows = rows.join(dictionary, column).drop(column).withColumnRenamed("_id", column)
    return rows


def _read(spark: SparkSession, path: Path) -> DataFrame:
    return spark.read.parquet(str(path / "data"))
