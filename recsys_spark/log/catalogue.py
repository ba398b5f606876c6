"""The item catalogue, read from the log's item file into the `items` table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, StringType, StructField, StructType

from recsys_spark.config import ItemsConfig, LogConfig
from recsys_spark.errors import ConfigError, DataError
from recsys_spark.schemas import ITEMS
from recsys_spark.warehouse import Version, Warehouse, fingerprint

_CODE = ("log/catalogue.py", "schemas.py")


def ingest_items(spark: SparkSession, warehouse: Warehouse, config: LogConfig) -> Version:
    """Write the `items` table; a log without a catalogue gets an empty one.

    Raises:
        DataError: the file is missing, lacks a column or holds no item.
    """
    items = config.items
    path = items.resolve() if items else None
    if path is not None and not path.exists():
        raise DataError(f"{path}: no such item catalogue; set log.items.path, or leave log.items out")
    files = [] if path is None else sorted([path] if path.is_file() else path.glob("[!._]*"))
    state = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    settings = items.model_dump(exclude={"path"}) if items else None

    def build(aside: Path) -> dict[str, Any]:
        rows = read_items(spark, items, path) if items and path else spark.createDataFrame([], ITEMS.schema)
        ITEMS.conform(rows).coalesce(1).write.parquet(str(aside / "data"))
        count, priced = spark.read.parquet(str(aside / "data")).agg(F.count("*"), F.count("price")).first()
        if items is not None and not count:
            raise DataError(f"{path}: holds no item; mend log.items")
        if items is not None and "price" in items.columns and not priced:
            print(f"warning: {path}: no {items.columns['price']!r} is a price, such as 9.90", file=sys.stderr)
        return {"table": ITEMS.name, "rows": count, "source": str(path) if path else None, "parents": []}

    return warehouse.slot(ITEMS.name).materialize(fingerprint(_CODE, settings, state), build)[0]


def read_items(spark: SparkSession, config: ItemsConfig, path: Path) -> DataFrame:
    """Read an item file as rows of `ITEMS`, one per item (the smallest, should an item stand twice)."""
    if config.format == "jsonl":
        names = ITEMS.schema.names
        strings = StructType([StructField(config.columns.get(n, n), StringType()) for n in names])
        rows = spark.read.schema(strings).json(str(path))
    elif config.format == "parquet":
        rows = spark.read.parquet(str(path))
    else:
        options = {"sep": config.delimiter, "header": config.header, "encoding": config.encoding, "escape": '"'}
        rows = spark.read.csv(str(path), **options)
    columns = {name: _column(rows, config, name, path) for name in ITEMS.schema.names}
    columns["item_id"] = F.trim(columns["item_id"].cast("string")).alias("item_id")  # as ingest trims the events'
    rest = [name for name in columns if name != "item_id"]
    items = rows.select(*columns.values()).where("item_id != ''").groupBy("item_id")
    return items.agg(F.min(F.struct(*rest)).alias("first")).select("item_id", "first.*")


def _column(rows: DataFrame, config: ItemsConfig, name: str, path: Path) -> Column:
    unknown = sorted(set(config.columns) - set(ITEMS.schema.names))
    if unknown:
        raise ConfigError(f"log.items.columns: unknown column {unknown[0]!r}; known: {', '.join(ITEMS.schema.names)}")
    source = config.columns.get(name, name)
    if source not in rows.columns:
        if name == "item_id" or name in config.columns:
            raise DataError(f"{path}: no column {source!r}; it has {', '.join(rows.columns)}; mend log.items.columns")
        return F.lit(None).cast(ITEMS.schema[name].dataType).alias(name)
    column = rows[source]
    if name == "price":
        number = column.try_cast("float")
        # Spark holds NaN to be the largest number
        return F.when((number >= 0) & (number < float("inf")), number).alias(name)
    if name == "categories" and rows.schema[source].dataType == StringType():
        if config.format == "jsonl":
            column = F.from_json(column, ArrayType(StringType()))
        else:
            column = F.split(column, F.lit(_quote(config.categories_separator)))
    return column.alias(name)


def _quote(separator: str) -> str:
    """Make the separator literal for Spark's regular expressions."""
    return "\\Q" + separator + "\\E"
