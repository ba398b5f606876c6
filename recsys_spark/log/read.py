"""The raw log's rows as named text columns, whatever the format, and every row with its raw text.

A row that cannot be parsed is a row with a `problem`. Text is read line by line and its problems are found
before anything tries to parse it, so that neither a line of 100 MB nor a picture among the JSON is trouble.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    BinaryType,
    DataType,
    DoubleType,
    FloatType,
    LongType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)

from recsys_spark.config import LogConfig
from recsys_spark.errors import DataError
from recsys_spark.log.raw import FIELDS, WHOLE
from recsys_spark.log.shape import Part, Shape, codec, mapping

KEPT = 1_024
"""Characters that are kept of a line above `log.max_line_bytes`."""
_CORRUPT = "_corrupt"
# The driver looks at the files itself: Spark would start a task for each of them.
_LISTED_HERE = ("spark.sql.sources.parallelPartitionDiscovery.threshold", str(1 << 30))


def read_batches(spark: SparkSession, config: LogConfig, shapes: list[Shape]) -> DataFrame:
    """Read batches as rows of `batch`, `raw`, `problem`, `attributes` and the text columns of `FIELDS`.

    `problem` is null or one of `too_long`, `bad_encoding` and `malformed`. Files that are alike are read by
    one scan, whichever batches they are of.
    """
    parts: dict[Part, list[Path]] = {}
    for shape in shapes:
        for part, files in shape.parts.items():
            parts.setdefault(part, []).extend(files)
    name = F.lit(WHOLE)
    if [shape.batch.name for shape in shapes] != [WHOLE]:  # daily folders, of the log or of what was unpacked
        name = F.regexp_extract(F.col("_metadata.file_path"), r".*/date=(\d{4}-\d{2}-\d{2})/", 1)
    read = _parquet_rows if config.format == "parquet" else _text_rows
    frames = [read(spark, config, part, files, name) for part, files in parts.items()]
    if not frames:
        return spark.createDataFrame([], ", ".join(f"{c} string" for c in ("batch", "raw", "problem", *FIELDS))).select(
            "*", _attributes({}).alias("attributes")
        )
    while len(frames) > 1:  # a balanced tree keeps the plan shallow
        pairs = zip(frames[::2], frames[1::2], strict=False)
        frames = [a.unionByName(b) for a, b in pairs] + frames[len(frames) // 2 * 2 :]
    return frames[0]


@contextlib.contextmanager
def setting(spark: SparkSession, key: str, value: str) -> Iterator[None]:
    """Set an option of Spark's for a while."""
    before = spark.conf.get(key)
    spark.conf.set(key, value)
    try:
        yield
    finally:
        spark.conf.set(key, str(before))


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """Word a file that Spark fails to read, such as one that was cut off, in one line."""
    try:
        yield
    except (Py4JJavaError, PySparkException) as error:
        found = re.search(r"reading file:? ?(?:file:)?/*(/\S+?)\.?\s", str(error))
        if "FAILED_READ_FILE" not in str(error) or found is None:
            raise
        raise DataError(f"{found[1]}: is damaged or cut off; deliver it again") from error


def _text_rows(spark: SparkSession, config: LogConfig, part: Part, files: list[Path], name: Column) -> DataFrame:
    with setting(spark, *_LISTED_HERE):
        text = spark.read.text([_literally(f) for f in files])
    value = F.col("value")
    too_long = F.octet_length(value) > config.max_line_bytes
    encoding = codec(config.encoding)
    if encoding == "iso8859-1":
        # Spark's text source keeps the bytes; decoding them afterwards is the only way to name an encoding
        data = value.cast("binary")
        raw = F.decode(F.when(too_long, F.substring(data, 1, KEPT)).otherwise(data), "ISO-8859-1")
        lines = text.select(name.alias("batch"), raw.alias("raw"), too_long.alias("too_long"))
        readable = F.lit(True)
    else:
        raw = F.when(too_long, F.substring(value, 1, KEPT)).otherwise(value)
        lines = text.select(name.alias("batch"), raw.alias("raw"), too_long.alias("too_long"))
        readable = F.is_valid_utf8("raw")
        if encoding == "ascii":
            readable &= F.octet_length("raw") == F.length("raw")
    problem = F.when(F.col("too_long"), "too_long").when(~readable, "bad_encoding")
    lines = lines.select("batch", F.make_valid_utf8("raw").alias("raw"), problem.alias("problem"))
    if part.header is not None:
        lines = lines.where(F.col("raw") != part.header)
    parse = _parse_json if config.format == "jsonl" else _parse_csv
    return parse(config, lines, part.names)


def _parse_json(config: LogConfig, lines: DataFrame, names: tuple[str, ...]) -> DataFrame:
    # Read as the only element of an array: alone, Spark would ignore whatever stands behind an object.
    kind = ArrayType(StructType([StructField(n, StringType()) for n in names]))
    text = F.when(F.col("problem").isNull(), F.concat(F.lit("["), "raw", F.lit("]")))
    rows = lines.select("batch", "raw", "problem", F.from_json(text, kind).alias("rows"))
    row = F.get("rows", F.lit(0))
    whole = F.coalesce(F.size("rows") == 1, F.lit(False)) & row.isNotNull()
    return _columns(config, rows, whole, {name: row.getField(name) for name in names})


def _parse_csv(config: LogConfig, lines: DataFrame, names: tuple[str, ...]) -> DataFrame:
    # Columns by position: a header may hold anything, blanks and repetitions included.
    kind = ", ".join([*(f"c{i} string" for i in range(len(names))), f"{_CORRUPT} string"])
    options = {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": _CORRUPT, "sep": config.delimiter, "escape": '"'}
    text = F.when(F.col("problem").isNull(), F.col("raw"))
    rows = lines.select("batch", "raw", "problem", F.from_csv(text, kind, options).alias("row"))
    row = F.col("row")
    # from_csv answers null, not a corrupt record, for a line with no text in it
    whole = row.isNotNull() & row[_CORRUPT].isNull() & (F.trim("raw") != "")
    sources = {name: row.getField(f"c{i}") for i, name in reversed(list(enumerate(names)))}
    return _columns(config, rows, whole, sources)


def _parquet_rows(spark: SparkSession, config: LogConfig, part: Part, files: list[Path], name: Column) -> DataFrame:
    # Spark has no type for nanoseconds and refuses files that hold any; as numbers they do no harm.
    spark.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")
    try:
        with setting(spark, *_LISTED_HERE):
            rows = spark.read.parquet(*(_literally(f) for f in files))
    except PySparkException as error:
        why = str(error).splitlines()[0].rstrip(".")
        raise DataError(f"{files[0]}: {why}; write such a column in another type, or leave it out") from None
    wanted = {*mapping(config, part.names).values(), *config.attributes} & set(part.names)
    types = {f.name: f.dataType for f in rows.schema.fields}
    as_written = json.loads(part.types)
    sources = {n: _as_text(n, types[n], as_written[n]) for n in wanted}
    raw = F.to_json(F.struct("*"))
    valid = [F.is_valid_utf8(c) for n, c in sources.items() if isinstance(types[n], StringType | BinaryType)]
    readable = F.coalesce(F.forall(F.array(*valid), lambda v: F.coalesce(v, F.lit(True))), F.lit(True))
    too_long = F.octet_length("raw") > config.max_line_bytes
    names = {n: f"s{i}" for i, n in enumerate(sorted(sources))}
    rows = rows.select(
        name.alias("batch"),
        F.make_valid_utf8(raw).alias("raw"),
        (readable if valid else F.lit(True)).alias("readable"),
        *(sources[n].alias(names[n]) for n in names),
    )
    problem = F.when(too_long, "too_long").when(~F.col("readable"), "bad_encoding")
    raw = F.when(too_long, F.substring("raw", 1, KEPT)).otherwise(F.col("raw"))
    rows = rows.select("batch", raw.alias("raw"), problem.alias("problem"), *names.values())
    return _columns(config, rows, F.lit(True), {n: F.col(c) for n, c in names.items()})


def _as_text(name: str, kind: DataType, as_written: str) -> Column:
    quoted = "`" + name.replace("`", "``") + "`"
    column = F.col(quoted)
    is_instant = isinstance(kind, TimestampType)
    if isinstance(kind, LongType) and as_written.startswith("timestamp[ns"):
        column, is_instant = F.expr(f"timestamp_micros({quoted} div 1000)"), "tz=" in as_written
    if is_instant:  # without the mark it would be read in log.timezone
        return F.concat(column.cast("string"), F.lit("Z"))
    if isinstance(kind, DoubleType | FloatType):  # whole numbers that once stood beside nulls, such as ids
        whole = (column == F.floor(column)) & (F.abs(column) < 2.0**53)
        return F.when(whole, column.cast("decimal(20,0)").cast("string")).otherwise(column.cast("string"))
    return column.cast("string")


def _columns(config: LogConfig, rows: DataFrame, whole: Column, sources: dict[str, Column]) -> DataFrame:
    """Select the fields by our names, those that the log does not have as nulls."""
    ours = mapping(config, sources)
    absent = F.lit(None).cast("string")
    return rows.select(
        "batch",
        "raw",
        F.when(F.col("problem").isNotNull(), F.col("problem")).when(~whole, "malformed").alias("problem"),
        *(sources.get(ours.get(name, ""), absent).alias(name) for name in FIELDS),
        _attributes({n: sources[n] for n in config.attributes if n in sources}).alias("attributes"),
    )


def _attributes(values: dict[str, Column]) -> Column:
    """Return a map of what is not empty."""
    if not values:
        return F.create_map().cast("map<string, string>")
    pairs = (c for n, v in values.items() for c in (F.lit(n), F.nullif(F.trim(v), F.lit(""))))
    return F.map_filter(F.create_map(*pairs), lambda _, v: v.isNotNull())


def _literally(file: Path) -> str:
    """Keep Spark from taking a bracket in a name for a pattern."""
    return re.sub(r"([\[\]{}*?\\])", r"\\\1", str(file))
