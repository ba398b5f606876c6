"""Training feeds as Parquet (contract 2): equal files of one row group, shuffled once, the same however Spark ran.

A row's place follows from a seeded hash of what identifies it. The hash's leading bits are buckets; they are
counted, and contiguous buckets become files of as good as equal size. Only non-null int32, int64 and float32
scalars and lists of one fixed length are written, because Petastorm drops other columns with no more than a
warning.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.config import Config

FILES_PER_READER = 4
"""Least files for each reader thread of each rank: fewer, and an epoch's shuffle deals the same few."""

_FILE_BYTES = 128 << 20
"""Most plain bytes in a file: a task holds a whole row group in memory, and several tasks share a heap."""
_ROW_GROUP_BYTES = 2 * _FILE_BYTES  # larger than any file, so that each file is one row group
_BITS = 18
"""Buckets, as a power of two, that the driver counts of a large feed; of a small one it counts every hash."""
_BUCKETS_PER_FILE = 64
_WIDTHS = {"int": 4, "float": 4, "bigint": 8}


def write_rows(
    spark: SparkSession, rows: DataFrame, count: int, path: Path, identity: list[str], config: Config
) -> dict[str, Any]:
    """Write a feed's rows below `path`, in `data/`, and return the manifest's entries about them.

    Args:
        rows: columns of the contract; those whose names begin with `_` are not written. It is read twice,
            the first time for `identity` alone: persist what is dear to compute.
        count: number of rows, 1 or more.
        identity: columns that no two rows share; they alone decide where a row lies.

    Returns:
        `rows`, `row_groups`, `files` (name, rows and row groups of each) and `schema`.
    """
    length = config.dataset.history_length
    files = file_count(rows, count, config)
    write_files(spark, rows, count, path / "data", identity, files, config.seed)
    return describe_files(path / "data", count, files, length)


def file_count(rows: DataFrame, count: int, config: Config) -> int:
    """Return how many files a feed gets: enough for every reader, none too large, none empty."""
    width = 0
    for column, kind in rows.dtypes:
        if not column.startswith("_"):
            inner = kind.removeprefix("array<").removesuffix(">")
            width += _WIDTHS.get(inner, 8) * (config.dataset.history_length if inner != kind else 1)
    per_file = max(1, min(config.dataset.feed_rows_per_file, _FILE_BYTES // width))
    least = FILES_PER_READER * config.train.ranks * config.train.feed_workers
    return min(count, max(least, config.dataset.feed_files, math.ceil(count / per_file)))


def write_files(
    spark: SparkSession, rows: DataFrame, count: int, folder: Path, identity: list[str], files: int, seed: int
) -> None:
    """Write rows as that many files of one row group, sizes apart by no more than a bucket.

    Up to 2^18 rows each row is a bucket; beyond, a bucket is at most 1/64 of a file, give or take chance.
    """
    fine = math.ceil(math.log2(_BUCKETS_PER_FILE * files))
    bits = 62 if count <= 1 << _BITS else max(_BITS, fine)
    hashed = rows.withColumn("_feed_hash", F.xxhash64(*identity, F.lit(seed)))
    hashed = hashed.withColumn("_feed_bucket", F.shiftrightunsigned("_feed_hash", 64 - bits))
    dealt = _deal(spark, hashed, files)
    shuffled = hashed.join(F.broadcast(dealt), "_feed_bucket").repartition(files, "_feed_key")
    kept = [c for c in rows.columns if not c.startswith("_")]
    ordered = shuffled.sortWithinPartitions("_feed_hash", *identity).select(*kept)
    ordered.write.option("parquet.block.size", _ROW_GROUP_BYTES).parquet(str(folder))


def _deal(spark: SparkSession, hashed: DataFrame, files: int) -> DataFrame:
    """Return `_feed_bucket` and `_feed_key`, the partition key of the file that the bucket's rows go to.

    Buckets stay in order. A bucket goes to the file in whose share of the rows its middle row falls.
    """
    counts = hashed.groupBy("_feed_bucket").agg(F.count("*").alias("n")).toArrow()
    buckets, sizes = (counts.column(i).to_numpy() for i in range(2))
    order = np.argsort(buckets)
    ends = np.cumsum(sizes[order])
    total = max(int(sizes.sum()), 1)
    file_of = ((ends - sizes[order] / 2) * files / total).astype(np.int64)
    keys = _partition_keys(spark, files)[file_of]
    return spark.createDataFrame(pa.table({"_feed_bucket": buckets[order], "_feed_key": keys.astype(np.int32)}))


def _partition_keys(spark: SparkSession, files: int) -> np.ndarray:
    """Return int64[files]: for each file a number that Spark's hash partitioner puts into the partition of the file.

    Spark sends a row to partition pmod(hash(key), n). Dealing by the file's own number would put two files
    into one partition and none into another.
    """
    wanted: dict[int, int] = {}
    tries = 0
    while len(wanted) < files:
        start, tries = tries, 2 * tries + 32 * files
        number = F.col("id").cast("int")
        found = spark.range(start, tries, 1, 1).select(number, F.pmod(F.hash(number), F.lit(files))).toArrow()
        for key, partition in zip(found.column(0).to_pylist(), found.column(1).to_pylist(), strict=True):
            wanted.setdefault(partition, key)
    return np.array([wanted[f] for f in range(files)], dtype=np.int64)


def describe_files(folder: Path, rows: int, files: int | None = None, length: int | None = None) -> dict[str, Any]:
    """Read the footers, hold them against the contract, and return files, rows and schema.

    Args:
        rows: rows that were to be written.
        files: files that were to be written; None = any number.
        length: elements of every list; None = any.
    """
    entries = []
    schemas = set()
    for file in sorted(folder.glob("*.parquet")):
        footer = pq.ParquetFile(file)
        if footer.metadata.num_row_groups > 1:
            raise AssertionError(f"{file}: {footer.metadata.num_row_groups} row groups, not one")
        schemas.add(json.dumps([[f.name, _plain(f.type)] for f in footer.schema_arrow]))
        if footer.metadata.num_rows:
            entries.append({"file": file.name, "rows": footer.metadata.num_rows, "row_groups": 1})
            _check_values(file, footer, length)
    written = sum(e["rows"] for e in entries)
    if written != rows or len(schemas) != 1:
        raise AssertionError(f"{folder}: wrote {written} rows in {len(schemas)} schemas, expected {rows} in 1")
    if files is not None and len(entries) != files:
        raise AssertionError(f"{folder}: wrote {len(entries)} files, expected {files}")
    return {"rows": rows, "row_groups": len(entries), "files": entries, "schema": json.loads(schemas.pop())}


def _check_values(file: Path, footer: pq.ParquetFile, length: int | None) -> None:
    """Refuse nulls, and lists that are not all of the one length."""
    group = footer.metadata.row_group(0)
    for i, field in enumerate(footer.schema_arrow):
        column = group.column(i)
        if column.statistics is not None and column.statistics.null_count:
            raise AssertionError(f"{file}: {field.name} holds {column.statistics.null_count} nulls")
        expected = group.num_rows * (length if length and pa.types.is_list(field.type) else 1)
        if column.num_values != expected and (length or not pa.types.is_list(field.type)):
            raise AssertionError(f"{file}: {field.name} holds {column.num_values} values, expected {expected}")


def _plain(kind: pa.DataType) -> str:
    """Name a type of the contract; anything else raises."""
    inner = kind.value_type if pa.types.is_list(kind) else kind
    if inner not in (pa.int32(), pa.int64(), pa.float32()):
        raise AssertionError(f"{kind} is no type of the feed contract")
    return f"list<{inner}>" if pa.types.is_list(kind) else str(inner)
