"""Events up to a run date -> dictionaries, interactions, histories and the training feed."""

from __future__ import annotations

import datetime as dt
import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.config import Config
from recsys_spark.dataset.events import each_once, number, read_events, rows_by_type
from recsys_spark.dataset.feeds.impressions import write_impressions
from recsys_spark.dataset.feeds.pairs import write_pairs
from recsys_spark.dataset.feeds.sequences import write_sequences
from recsys_spark.dataset.histories import build_histories
from recsys_spark.dataset.ids import extend_dictionary
from recsys_spark.dataset.interactions import mark_core, write_summed
from recsys_spark.dataset.segments import user_segments
from recsys_spark.dataset.splits import PARTS
from recsys_spark.errors import DataError
from recsys_spark.schemas import EVENTS, HISTORIES, INTERACTIONS, ITEM_IDS, USER_IDS, Table
from recsys_spark.session import together
from recsys_spark.warehouse import Slot, Version, Warehouse, fingerprint

FEEDS = ("pairs", "sequences", "impressions")
_CODE = ("dataset", "schemas.py")


@dataclass(frozen=True)
class Dataset:
    """The versions that training, evaluation and publishing of one run date read."""

    interactions: Version
    histories: Version
    feeds: dict[str, Version]
    """By kind; see `dataset.feeds` of the configuration."""

    @property
    def feed(self) -> Version:
        """The feed of pairs, which every data set has."""
        return self.feeds["pairs"]

    @property
    def name(self) -> str:
        """The data version that every model and run is logged with."""
        return self.interactions.name


def build_dataset(
    spark: SparkSession,
    warehouse: Warehouse,
    config: Config,
    until: dt.date,
    events: dict[str, Version],
    items: Version,
) -> Dataset:
    """Build the data set of a run date from the live events and items, or return the one that stands.

    Raises:
        DataError: no event up to the day, or nothing left to train on.
    """
    day = until.isoformat()
    inputs = {batch: version.name for batch, version in events.items()}
    readers = (config.train.ranks, config.train.feed_workers)  # decide how many files a feed has
    settings = (config.dataset.model_dump(), config.log.weights, config.seed, readers, day)
    catalogue = items.name if "impressions" in config.dataset.feeds else None
    name = f"{day}-{fingerprint(_CODE, settings, inputs, catalogue)}"
    slots = _slots(warehouse, day)

    def interactions(path: Path) -> dict[str, Any]:
        return {**_interactions(spark, warehouse, config, until, events, path), "events": inputs}

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

    def impressions(path: Path) -> dict[str, Any]:
        numbered = _numbered(spark, warehouse, made, events, until)
        catalogue = numbered_items(spark, warehouse, items, made)
        return write_impressions(spark, rows, numbered, catalogue, config, until, path)

    past = slots[HISTORIES.name].materialize(name, histories, flip=False)[0]
    writers: dict[str, Callable[[Path], dict[str, Any]]] = {
        "pairs": lambda path: write_pairs(spark, rows, config, path),
        "sequences": lambda path: write_sequences(spark, rows, config, path),
        "impressions": impressions,
    }
    feeds: dict[str, Version] = {}
    for kind in config.dataset.feeds:
        write = writers[kind]
        build = functools.partial(lambda write, path: {**write(path), "interactions": made.name}, write)
        feeds[kind] = slots[f"feeds/{kind}"].materialize(name, build, flip=False)[0]
    # live only when all of them stand, so that a date's tables belong together
    for each in FEEDS:
        slot = slots[f"feeds/{each}"]
        if each in feeds:
            slot.flip(feeds[each])
        else:
            slot.retire()
    slots[INTERACTIONS.name].flip(made)
    slots[HISTORIES.name].flip(past)
    return Dataset(made, past, feeds)


def current_dataset(warehouse: Warehouse, until: dt.date) -> Dataset:
    """Return the live data set of a run date, or raise a `DataError` that says how to make it."""
    remedy = f"run jobs/build_dataset.py --date {until} first"
    day = until.isoformat()
    slots = _slots(warehouse, day)
    feeds = {kind: slots[f"feeds/{kind}"].current() for kind in FEEDS}
    found = Dataset(
        slots[INTERACTIONS.name].require(remedy),
        slots[HISTORIES.name].require(remedy),
        {kind: version for kind, version in feeds.items() if version is not None},
    )
    names = {v.name for v in (found.interactions, found.histories, *found.feeds.values())}
    if len(names) > 1 or "pairs" not in found.feeds:
        raise DataError(f"the data set of {until} is half made; {remedy}")
    return found


def _slots(warehouse: Warehouse, day: str) -> dict[str, Slot]:
    tables = (INTERACTIONS.name, HISTORIES.name, *(f"feeds/{kind}" for kind in FEEDS))
    return {table: warehouse.slot(table, date=day) for table in tables}


def _interactions(
    spark: SparkSession, warehouse: Warehouse, config: Config, until: dt.date, events: dict[str, Version], path: Path
) -> dict[str, Any]:
    """Write `data` (INTERACTIONS) and `users` (last day of everyone with an event); return the manifest's entries."""
    rows = read_events(spark, events, until)
    if rows.isEmpty():
        raise DataError(f"no event up to {until}; choose a later --date")
    users, items = together(
        lambda: extend_dictionary(spark, warehouse.slot(USER_IDS.name), USER_IDS, rows.select("user_id")),
        lambda: extend_dictionary(spark, warehouse.slot(ITEM_IDS.name), ITEM_IDS, rows.select("item_id")),
    )
    rows = number(spark, rows, users, items)
    scratch = path / "scratch"
    scratch.mkdir()
    pairs = write_summed(rows, config, until, len(events) > 1, scratch / "pairs")
    mark_core(pairs, config.dataset.k_core, scratch).write.parquet(str(path / "data"))
    delivered, summed = pairs.agg(F.sum("deliveries"), F.sum("events")).first()
    shutil.rmtree(scratch)
    rows.groupBy("user_id").agg(F.max("date").alias("last_day")).write.parquet(str(path / "users"))
    counts = _read(spark, path).groupBy("split").agg(
        F.count("*").alias("rows"), F.count_if("in_core").alias("core"),
        F.count_if("cold_user").alias("cold_user"), F.count_if("cold_item").alias("cold_item"),
    )  # fmt: skip
    parts = {r.split: r.asDict() for r in counts.collect()}
    if not parts.get("train"):
        raise DataError(f"nothing to train on before {until}; choose a later --date, or mend dataset.split")
    seen = rows_by_type(spark, events, until)
    return {
        "table": INTERACTIONS.name,
        "counts": _reconciled(seen, config.log.weights, delivered or 0, summed or 0),
        "rows": sum(p["rows"] for p in parts.values()),
        "parts": dict.fromkeys(PARTS, 0) | {name: p["rows"] for name, p in parts.items()},
        "core": parts["train"]["core"],
        "cold": {n: {k: p[k] for k in ("cold_user", "cold_item")} for n, p in parts.items() if n in PARTS[1:]},
        "user_ids": users.name,
        "item_ids": items.name,
        "lineage": f"{users.manifest['lineage']}-{items.manifest['lineage']}",
    }


def _numbered(
    spark: SparkSession, warehouse: Warehouse, made: Version, events: dict[str, Version], until: dt.date
) -> DataFrame:
    """Read all events up to the day, each once, with the ids that `interactions` was made with."""
    users, items = (_dictionary(warehouse, table, made) for table in (USER_IDS, ITEM_IDS))
    numbered = number(spark, read_events(spark, events, until), users, items)
    return each_once(numbered) if len(events) > 1 else numbered


def numbered_items(spark: SparkSession, warehouse: Warehouse, items: Version, made: Version) -> DataFrame:
    """Read the catalogue with the dense ids of `item_id` that `interactions` was made with."""
    ids = spark.read.parquet(_dictionary(warehouse, ITEM_IDS, made).data).select(F.col("raw_id").alias("item_id"), "id")
    return spark.read.parquet(items.data).join(ids, "item_id").drop("item_id").withColumnRenamed("id", "item_id")


def training_segments(spark: SparkSession, warehouse: Warehouse, made: Version, attribute: str) -> DataFrame:
    """Read which segment of an attribute each user of `interactions` belongs to: see `user_segments`.

    Raises:
        DataError: the events that it was made of are gone.
    """
    day = dt.date.fromisoformat(made.name[:10])
    events = {b: warehouse.slot(EVENTS.name, batch=b).version(name) for b, name in made.manifest["events"].items()}
    there = {batch: version for batch, version in events.items() if version is not None}
    if len(there) < len(events):
        raise DataError(f"the events of the data set of {day} are no longer there; run jobs/build_dataset.py again")
    numbered = _numbered(spark, warehouse, made, there, day)
    return user_segments(spark.read.parquet(made.data), numbered, attribute)


def _dictionary(warehouse: Warehouse, table: Table, made: Version) -> Version:
    version = warehouse.slot(table.name).version(made.manifest[table.name])
    assert version is not None
    return version


def _reconciled(seen: dict[str, int], weights: dict[str, float], delivered: int, summed: int) -> dict[str, int]:
    """Hold the events that reached the interactions against those that were read.

    Args:
        seen: events of each type, counted in the files.
        delivered: of a type with a weight, as they came out of the join with the dictionaries.
        summed: those of them that are left once what came again is taken out.

    Raises:
        AssertionError: an event was lost, or counted twice.
    """
    weighed = sum(n for kind, n in seen.items() if weights.get(kind, 0) > 0)
    if delivered != weighed:
        raise AssertionError(f"interactions are made of {delivered} events with a weight, the log has {weighed}")
    total = sum(seen.values())
    again = delivered - summed
    return {"events": total, "weightless": total - weighed, "delivered_again": again, "summed": summed}


def _read(spark: SparkSession, path: Path) -> DataFrame:
    return spark.read.parquet(str(path / "data"))
