"""The training feed (contract 2): positives as flat Parquet, shuffled once, one row group per file.

Non-null int32 and float32 scalars and fixed-length lists only, because Petastorm drops other columns with
no more than a warning. Rows are spread over the files and ordered within them by seeded hashes of what they
hold, so the feed is the same however Spark ran.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from recsys_spark.config import DatasetConfig
from recsys_spark.errors import DataError

_ROW_GROUP_BYTES = 1 << 30  # larger than any file, so that each file is one row group


def write_feed(
    spark: SparkSession, interactions: DataFrame, config: DatasetConfig, seed: int, path: Path
) -> dict[str, Any]:
    """Write the feed of the training part's core below `path` and return its manifest's entries.

    Beside the rows (`data/`: `user_id`, `item_id`, `weight`, `history` of the items before, padded with 0
    on the left) it writes how often each user and item occurs (`users/`, `items/`), which tells a model
    what it was trained on.

    Raises:
        DataError: the k-core left no row.
    """
    train = interactions.where("split = 'train' and in_core").persist()
    rows = train.count()
    if not rows:
        raise DataError(f"no interaction survives dataset.k_core={config.k_core}; lower it, or bring a larger log")
    files = max(config.feed_files, math.ceil(rows / config.feed_rows_per_file))

    before = Window.partitionBy("user_id").orderBy("timestamp", "item_id").rowsBetween(-config.history_length, -1)
    past = F.collect_list("item_id").over(before)
    padding = F.array_repeat(F.lit(0), F.lit(config.history_length) - F.size("past"))
    spread = F.xxhash64("user_id", "item_id", F.lit(seed))
    feed = train.withColumn("past", past).select(
        "user_id", "item_id", F.col("weight").cast("float").alias("weight"), F.concat(padding, "past").alias("history"),
        spread.alias("spread"),
    )  # fmt: skip
    shuffled = feed.repartition(files, "spread").sortWithinPartitions(F.xxhash64("spread", F.lit(seed)), "spread")
    shuffled.drop("spread").write.option("parquet.block.size", _ROW_GROUP_BYTES).parquet(str(path / "data"))

    for name, key in (("users", "user_id"), ("items", "item_id")):
        counts = train.groupBy(key).agg(F.count("*").cast("int").alias("count"))
        counts.sort(key).coalesce(1).write.parquet(str(path / name))
    train.unpersist()
    return {"table": "feed", "history_length": config.history_length, **describe_feed(path, rows)}


def describe_feed(path: Path, rows: int) -> dict[str, Any]:
    """Read the footers, hold them against the contract, and return files, rows and schema fingerprint."""
    files = []
    schemas = set()
    for file in sorted((path / "data").glob("*.parquet")):
        footer = pq.ParquetFile(file)
        if footer.metadata.num_row_groups > 1:
            raise AssertionError(f"{file}: {footer.metadata.num_row_groups} row groups, not one")
        if footer.metadata.num_rows:
            files.append({"file": file.name, "rows": footer.metadata.num_rows, "row_groups": 1})
            schemas.add(json.dumps([[f.name, _plain(f.type)] for f in footer.schema_arrow]))
    written = sum(f["rows"] for f in files)
    if written != rows or len(schemas) != 1:
        raise AssertionError(f"{path}: wrote {written} rows in {len(schemas)} schemas, expected {rows} in 1")
    sizes = {f"n_{n}": int(pq.read_table(path / n).column(0).to_numpy().max()) + 1 for n in ("users", "items")}
    return {"rows": rows, "row_groups": len(files), "files": files, "schema": json.loads(schemas.pop()), **sizes}


def _plain(kind: pa.DataType) -> str:
    """Name a type of the contract; anything else raises."""
    inner = kind.value_type if pa.types.is_list(kind) else kind
    if inner not in (pa.int32(), pa.int64(), pa.float32()):
        raise AssertionError(f"{kind} is no type of the feed contract")
    return f"list<{inner}>" if pa.types.is_list(kind) else str(inner)
