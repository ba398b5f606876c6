"""Append-only dictionaries from the log's ids to dense ones.

An id, once given, is for ever: a model trained last night reads tonight's ids. New ids are numbered in the
order of their 64-bit hash, so the same events in the same order of nights give the same ids, however many
partitions they lie in. 0 is the unknown.

A dictionary's manifest has an `id_space`, drawn for its first version and handed on: ids of one space mean the same,
those of another mean nothing. A warehouse that was wiped gives its versions their names again, but another space.

The hash, `key`, is what the events are joined by: a string is hashed where it is read, and never shuffled.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from recsys_spark.errors import DataError
from recsys_spark.schemas import Table
from recsys_spark.warehouse import Busy, Slot, Version, exclusive

_BUCKET_BITS = 6
_ROWS_PER_FILE = 5_000_000
_PATIENCE_SECONDS = 120.0


def key_of(raw_id: Column, salt: int) -> Column:
    """Hash a raw id to 64 bits; the dictionary's manifest says which salt keeps its ids apart."""
    return F.xxhash64(raw_id, F.lit(salt))


def extend_dictionary(
    spark: SparkSession, slot: Slot, table: Table, raw_ids: DataFrame, patience: float = _PATIENCE_SECONDS
) -> Version:
    """Give an id to every raw id that has none and return the dictionary that holds them all.

    Two runs may do so at once: one writes the next version, the other waits for it and numbers what is still
    new to it behind that.

    Args:
        slot: where the dictionary's versions are.
        table: `USER_IDS` or `ITEM_IDS`.
        raw_ids: one text column; nulls are ignored, repeats are fine.
        patience: seconds to wait for another run.

    Raises:
        Busy: another run is still writing the dictionary after `patience` seconds.
    """
    end = time.monotonic() + patience
    while True:
        current = slot.current()
        salt = current.manifest["salt"] if current else 0
        fresh = _without_id(spark, current, raw_ids, salt).persist()
        try:
            sizes = _sizes(fresh)
            if current is not None and not sizes:
                return current
            version = _append(spark, slot, table, current, fresh, sizes)
            if version is not None:
                return version
        except Busy:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
        finally:
            fresh.unpersist()


def read_dictionary(spark: SparkSession, version: Version, column: str, dense: str) -> tuple[DataFrame, int]:
    """Return the dictionary as rows of `<column>_key` and `dense`, and the salt of its keys."""
    rows = spark.read.parquet(version.data).select(F.col("key").alias(f"{column}_key"), F.col("id").alias(dense))
    return rows, version.manifest["salt"]


def _without_id(spark: SparkSession, current: Version | None, raw_ids: DataFrame, salt: int) -> DataFrame:
    rows, key = raw_ids.toDF("raw_id").where("raw_id is not null"), key_of(F.col("raw_id"), salt)
    if current is not None:  # before the shuffle: on most nights hardly an id is new
        known = spark.read.parquet(current.data).select("key")
        rows = rows.withColumn("key", key).join(known, "key", "left_anti")
    return rows.select("raw_id").distinct().withColumn("key", key)  # a key in the map would make it larger for nothing


def _append(
    spark: SparkSession, slot: Slot, table: Table, current: Version | None, fresh: DataFrame, sizes: dict[int, int]
) -> Version | None:
    """Write the next version, or return None: another run wrote it from other ids, and it is live now."""
    number = int(current.name[1:]) + 1 if current else 1
    offset = current.manifest["rows"] if current else 0
    old_salt = current.manifest["salt"] if current else 0
    count = sum(sizes.values())
    id_space = (current.manifest.get("id_space") if current else None) or uuid.uuid4().hex

    def build(path: Path) -> dict[str, Any]:
        known = spark.read.parquet(current.data) if current else None
        salt = old_salt
        while True:
            rows = _numbered(fresh, offset, sizes)
            rows = rows if known is None else known.select(rows.columns).unionByName(rows)
            if salt != old_salt:
                rows = rows.withColumn("key", key_of(F.col("raw_id"), salt))
            files = max(1, (offset + count) // _ROWS_PER_FILE)
            table.conform(rows).coalesce(files).write.mode("overwrite").parquet(str(path / "data"))
            if _is_apart(spark, path / "data", offset + count):
                break
            salt += 1  # two raw ids share a key: one chance in 10,000 for 60 million of them
        previous = current.name if current else None
        return {
            "table": table.name, "rows": offset + count, "appended": count, "previous": previous, "salt": salt,
            "id_space": id_space,
            "parents": [f"{table.name}/{previous}"] if previous else [],
        }  # fmt: skip

    version, built = slot.materialize(f"v{number:06d}", build, flip=False)
    with exclusive(slot.path):  # the pointer only ever goes forward, also where a killed run left it behind
        live = slot.current()
        if live is None or live.name < version.name:
            slot.flip(version)
    return version if built else None


def _bucket() -> Column:
    return F.shiftright("key", 64 - _BUCKET_BITS)


def _sizes(fresh: DataFrame) -> dict[int, int]:
    """Count new ids by the highest bits of their key."""
    return {r.bucket: r.n for r in fresh.groupBy(_bucket().alias("bucket")).agg(F.count("*").alias("n")).collect()}


def _numbered(fresh: DataFrame, offset: int, sizes: dict[int, int]) -> DataFrame:
    """Number new ids from `offset` + 1 in the order of (key, raw id).

    The highest bits of the key part the order into ranges of about one size, each numbered by itself; where a
    range begins is the sum of the ranges before it. No sort of everything, and no sample of it either.
    """
    starts, total = {}, offset
    for name in sorted(sizes):
        starts[name] = total
        total += sizes[name]
    if not starts:
        return fresh.select("raw_id", F.lit(0).alias("id"), "key")
    start = F.create_map(*(F.lit(x) for pair in starts.items() for x in pair))
    place = F.row_number().over(Window.partitionBy("bucket").orderBy("key", "raw_id"))
    rows = fresh.withColumn("bucket", _bucket())
    return rows.select("raw_id", (place + start[F.col("bucket")]).cast("int").alias("id"), "key")


def _is_apart(spark: SparkSession, data: Path, expected: int) -> bool:
    """Assert that the ids are 1 to `expected`, and return whether every key is one id's alone."""
    by_key = spark.read.parquet(str(data)).groupBy("key")
    sums = by_key.agg(F.count("*").alias("n"), F.sum(F.col("id").cast("long")).alias("sum"), F.max("id").alias("top"))
    n, ids, top, most = sums.agg(F.sum("n"), F.sum("sum"), F.max("top"), F.max("n")).first()
    if (n or 0) != expected or (n and (ids != n * (n + 1) // 2 or top != n)):
        raise DataError(f"{data}: {n} ids up to {top}, expected {expected}; did the events change meanwhile?")
    return (most or 0) <= 1
