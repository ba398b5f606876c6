"""The raw log as it lies on disk: which batches there are, and their rows as named text columns.

A batch is one delivery: a folder `date=YYYY-MM-DD` below the log's path, or the whole log ("all") where
there are no such folders. Every format is read line by line into the same shape, so that a row that
cannot be parsed still has its raw text.
"""

from __future__ import annotations

import csv
import datetime as dt
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from recsys_spark.config import LogConfig
from recsys_spark.errors import ConfigError, DataError

FIELDS = (
    "event_id", "user_id", "item_id", "event_type", "timestamp", "rating", "position",
    "session_id", "device", "country", "split",
)  # fmt: skip
REQUIRED = ("user_id", "item_id", "timestamp")
WHOLE = "all"
_CORRUPT = "_corrupt"


@dataclass(frozen=True)
class Batch:
    """One delivery of the raw log."""

    name: str
    """`YYYY-MM-DD`, or `all`."""
    path: Path

    def files(self) -> list[Path]:
        """Return the data files, sorted; hidden files and markers are none."""
        found = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return sorted(f for f in found if f.is_file() and not f.name.startswith((".", "_")))

    def state(self) -> list[tuple[str, int, int]]:
        """Return (name, bytes, mtime in ns) of every file: what the batch's version is keyed by."""
        stats = [(f, f.stat()) for f in self.files()]
        return [(f.name, s.st_size, s.st_mtime_ns) for f, s in stats]


def find_batches(config: LogConfig, until: dt.date | None) -> list[Batch]:
    """Return the batches delivered up to a day, oldest first.

    Raises:
        DataError: no log, no rows in it, or a day for which the log has no folder.
    """
    path = config.resolve()
    if not path.exists():
        raise DataError(f"{path}: no such log; set log.path, or fetch it with `make data`")
    daily = [Batch(_day(p), p) for p in sorted(path.glob("date=*")) if p.is_dir()] if path.is_dir() else []
    batches = daily or [Batch(WHOLE, path)]
    if not any(f.stat().st_size for batch in batches for f in batch.files()):
        raise DataError(f"{path}: the log is empty; nothing to recommend from")
    if daily and until is not None:
        if until.isoformat() not in {b.name for b in daily}:
            span = f"{daily[0].name} to {daily[-1].name}"
            raise DataError(f"{path}: has no day {until}; it holds {span}, choose one of them with --date")
        batches = [b for b in daily if b.name <= until.isoformat()]
    return batches


def _day(path: Path) -> str:
    name = path.name.removeprefix("date=")
    try:
        return dt.date.fromisoformat(name).isoformat()
    except ValueError:
        raise DataError(f"{path}: is not a day of the calendar; name the folder date=YYYY-MM-DD") from None


def read_batches(spark: SparkSession, config: LogConfig, batches: list[Batch]) -> DataFrame:
    """Read batches as rows of `batch`, `raw`, `malformed` and the text columns of `FIELDS`.

    Raises:
        DataError: a column that `log.columns` names is in no row, or the format is not what it says.
    """
    frames = [_read(spark, config, batch) for batch in batches]
    while len(frames) > 1:  # a balanced tree keeps the plan shallow for a year of days
        frames = [a.unionByName(b) for a, b in zip(frames[::2], frames[1::2], strict=False)] + frames[
            len(frames) // 2 * 2 :
        ]
    return frames[0]


def _read(spark: SparkSession, config: LogConfig, batch: Batch) -> DataFrame:
    files = [str(f) for f in batch.files()]
    if config.format == "parquet":
        rows = spark.read.parquet(*files) if files else None
        if rows is None:
            raise DataError(f"{batch.path}: holds no Parquet file")
        _check_columns(config, rows.columns, batch)
        columns = [rows[source].cast("string").alias(name) for name, source in _mapping(config, rows.columns).items()]
        parsed = rows.select(F.to_json(F.struct("*")).alias("raw"), F.lit(False).alias("malformed"), *columns)
    else:
        lines = _lines(spark, files, config.encoding)
        names, header = _names(config, lines, batch)
        if header is not None:
            lines = lines.where(F.col("raw") != header)
        schema = StructType([StructField(n, StringType()) for n in (*names, _CORRUPT)])
        row = _parse(config, schema)
        mapping = _mapping(config, names)
        parsed = lines.select("raw", row.alias("row")).select(
            "raw",
            # from_csv answers null, not a corrupt record, for a line with no text in it
            (F.col("row").isNull() | F.col(f"row.{_CORRUPT}").isNotNull() | (F.trim("raw") == "")).alias("malformed"),
            *(F.col(f"row.`{source}`").alias(name) for name, source in mapping.items()),
        )
    have = set(parsed.columns)
    missing = [F.lit(None).cast("string").alias(name) for name in FIELDS if name not in have]
    return parsed.select(F.lit(batch.name).alias("batch"), "*", *missing)


def _lines(spark: SparkSession, files: list[str], encoding: str) -> DataFrame:
    lines = spark.read.text(files)
    if encoding.upper() not in ("UTF-8", "UTF8"):
        # Spark's text source keeps the bytes; decoding them afterwards is the only way to name an encoding
        return lines.select(F.decode(F.col("value").cast("binary"), encoding).alias("raw"))
    return lines.select(F.col("value").alias("raw"))


def _parse(config: LogConfig, schema: StructType) -> Column:
    options = {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": _CORRUPT}
    if config.format == "jsonl":
        return F.from_json("raw", schema, options)
    return F.from_csv(F.col("raw"), schema.simpleString()[7:-1].replace(":", " "), {**options, "sep": config.delimiter})


def _names(config: LogConfig, lines: DataFrame, batch: Batch) -> tuple[list[str], str | None]:
    """Column names of a text file, and its header line where it has one."""
    sample = [row.raw for row in lines.limit(200).collect()]
    if not sample:
        return sorted(set(_mapping(config, FIELDS).values())), None
    if config.format == "csv":
        fields = _split(sample[0], config.delimiter)
        names = fields if config.header else [f"_c{i}" for i in range(len(fields))]
        _check_columns(config, names, batch)
        return names, sample[0] if config.header else None
    found: set[str] = set()
    for line in sample:
        try:
            found.update(json.loads(line))
        except (ValueError, TypeError):
            continue
    if found:  # else every sampled row is bad: they go to quarantine, and the bad share stops the run
        _check_columns(config, sorted(found), batch)
    return sorted(set(_mapping(config, FIELDS).values())), None


def _split(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter)) if len(delimiter) == 1 else line.split(delimiter)


def _mapping(config: LogConfig, available: Iterable[str]) -> dict[str, str]:
    """Our name -> the log's name, of the columns that the log has."""
    unknown = sorted(set(config.columns) - set(FIELDS))
    if unknown:
        raise ConfigError(f"log.columns: unknown column {unknown[0]!r}; known are {', '.join(FIELDS)}")
    return dict(config.columns) if config.columns else {f: f for f in FIELDS if f in set(available)}


def _check_columns(config: LogConfig, names: list[str], batch: Batch) -> None:
    needed = list(config.columns.values()) or [*REQUIRED, *([] if config.default_type else ["event_type"])]
    # rows of JSON lines may leave optional fields out, so only what every log needs is asked of a sample
    if config.format == "jsonl" and config.columns:
        needed = [config.columns[c] for c in REQUIRED]
    missing = [c for c in needed if c not in names]
    if missing:
        raise DataError(
            f"{batch.path}: no column {missing[0]!r}; it has {', '.join(names[:12])}; mend log.columns (or log.header)"
        )
