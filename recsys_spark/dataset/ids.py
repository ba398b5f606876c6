"""Append-only dictionaries from the log's ids to dense ones.

An id, once given, is for ever: a model trained last night reads tonight's ids. New keys are sorted before
they are numbered, so the same events in the same order of nights give the same ids. 0 is the unknown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import IntegerType, StringType, StructField, StructType

from recsys_spark.schemas import Table
from recsys_spark.warehouse import Slot, Version

_ROWS = StructType([StructField("raw_id", StringType()), StructField("id", IntegerType())])


def extend_dictionary(spark: SparkSession, slot: Slot, table: Table, keys: DataFrame) -> Version:
    """Give an id to every key that has none and return the dictionary that holds them all.

    Args:
        slot: where the dictionary's versions are.
        table: `USER_IDS` or `ITEM_IDS`.
        keys: one text column; nulls are ignored, repeats are fine.
    """
    current = slot.current()
    known = spark.read.parquet(current.data) if current else spark.createDataFrame([], _ROWS)
    fresh = keys.toDF("raw_id").where("raw_id is not null").distinct().join(known, "raw_id", "left_anti")
    fresh = fresh.persist()
    try:
        count = fresh.count()
        if current is not None and not count:
            return current
        return _append(spark, slot, table, current, known, fresh, count)
    finally:
        fresh.unpersist()


def _append(
    spark: SparkSession,
    slot: Slot,
    table: Table,
    current: Version | None,
    known: DataFrame,
    fresh: DataFrame,
    count: int,
) -> Version:
    offset = current.manifest["rows"] if current else 0

    def build(path: Path) -> dict[str, Any]:
        numbered = fresh.sort("raw_id").rdd.zipWithIndex().map(lambda row: (row[0].raw_id, row[1] + 1 + offset))
        rows = known.unionByName(spark.createDataFrame(numbered, _ROWS))
        rows.coalesce(max(1, (offset + count) // 5_000_000)).write.parquet(str(path / "data"))
        written = spark.read.parquet(str(path / "data"))
        rows_written, ids, top = written.agg(F.count("*"), F.count_distinct("id"), F.max("id")).first()
        if not rows_written == ids == top == offset + count:
            raise AssertionError(f"{slot.path}: {rows_written} rows, {ids} ids up to {top}; expected {offset + count}")
        return {"table": table.name, "rows": top, "appended": count, "previous": current.name if current else None}

    name = f"v{(int(current.name[1:]) if current else 0) + 1:06d}"
    version, built = slot.materialize(name, build)
    if built:
        return version
    # Another run, or one killed before its pointer flipped, wrote this version from other keys: it is live
    # now, and our keys are numbered behind its own.
    return extend_dictionary(spark, slot, table, fresh.select("raw_id"))
