"""The raw log as it lies on disk: which batches there are, and their rows as named text columns.

A batch is one delivery: a folder `date=YYYY-MM-DD` below the log's path, or the whole log ("all") where
there are no such folders. Every format is read line by line into the same shape, so that a row that
cannot be parsed still has its raw text.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import datetime as dt
import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, StringType, StructField, StructType

from recsys_spark.config import LogConfig
from recsys_spark.errors import ConfigError, DataError

FIELDS = (
    "event_id", "user_id", "item_id", "event_type", "timestamp", "rating", "position",
    "session_id", "device", "country", "split",
)  # fmt: skip
REQUIRED = ("user_id", "item_id", "timestamp")
WHOLE = "all"
_CORRUPT = "_corrupt"
_COMPRESSED = (".gz", ".bz2", ".zst", ".snappy", ".lz4", ".deflate")
_SAMPLE = 200  # lines that show which columns a batch has


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
        if dt.date.fromisoformat(name).isoformat() == name:
            return name
    except ValueError:
        pass
    raise DataError(f"{path}: is not a day of the calendar; name the folder date=YYYY-MM-DD")


def read_batches(spark: SparkSession, config: LogConfig, batches: list[Batch]) -> DataFrame:
    """Read batches as rows of `batch`, `raw`, `malformed` and the text columns of `FIELDS`.

    Raises:
        DataError: a column that `log.columns` names is in no row, or the format is not what it says.
    """
    if config.format == "jsonl":  # any two batches have the same columns: one scan reads them all
        for batch in batches:
            _names(config, _head(spark, config, batch), batch)
        rows = _parse(config, _lines(spark, batches, config.encoding), _json_names(config))
    else:
        frames = [_read(spark, config, batch) for batch in batches]
        while len(frames) > 1:  # a balanced tree keeps the plan shallow for a year of days
            pairs = zip(frames[::2], frames[1::2], strict=False)
            frames = [a.unionByName(b) for a, b in pairs] + frames[len(frames) // 2 * 2 :]
        rows = frames[0]
    return rows


def _read(spark: SparkSession, config: LogConfig, batch: Batch) -> DataFrame:
    if config.format == "parquet":
        return _read_parquet(spark, config, batch)
    names, header = _names(config, _head(spark, config, batch), batch)
    lines = _lines(spark, [batch], config.encoding)
    return _parse(config, lines if header is None else lines.where(F.col("raw") != header), names)


def _read_parquet(spark: SparkSession, config: LogConfig, batch: Batch) -> DataFrame:
    files = batch.files()
    if not files:
        raise DataError(f"{batch.path}: holds no Parquet file")
    for file in files:
        with open(file, "rb") as opened:
            if opened.read(4) != b"PAR1":
                raise DataError(f"{file}: is no Parquet file; mend log.format or remove the file")
    rows = spark.read.parquet(*map(str, files))
    _check_columns(config, rows.columns, batch)
    columns = [rows[source].cast("string").alias(name) for name, source in _mapping(config, rows.columns).items()]
    raw = F.to_json(F.struct("*")).alias("raw")
    return _complete(rows.select(F.lit(batch.name).alias("batch"), raw, F.lit(False).alias("malformed"), *columns))


def _complete(rows: DataFrame) -> DataFrame:
    """Add the fields that the log does not have, as nulls."""
    have = set(rows.columns)
    return rows.select("*", *(F.lit(None).cast("string").alias(name) for name in FIELDS if name not in have))


def _head(spark: SparkSession, config: LogConfig, batch: Batch) -> list[str]:
    """Return a batch's first lines, through Spark only where it has to decompress them."""
    files = batch.files()
    if any(f.suffix in _COMPRESSED for f in files):
        return [row.raw for row in _lines(spark, [batch], config.encoding).limit(_SAMPLE).collect()]
    lines: list[str] = []
    codec = _codec(config.encoding)
    for file in files:
        # Spark, too, skips the mark that some programs put before UTF-8
        encoding = codec if codec == "iso8859-1" else "utf-8-sig"
        with open(file, encoding=encoding, errors="replace", newline="\n") as opened:
            lines += (line.rstrip("\r\n") for line in itertools.islice(opened, _SAMPLE - len(lines)))
        if len(lines) == _SAMPLE:
            break
    return lines


def _lines(spark: SparkSession, batches: list[Batch], encoding: str) -> DataFrame:
    """Read text files as rows of `batch` and `raw`."""
    text = spark.read.text([str(f) for batch in batches for f in batch.files()])
    if len(batches) == 1:
        name = F.lit(batches[0].name)
    else:  # several are daily folders
        name = F.regexp_extract(F.col("_metadata.file_path"), r"/date=(\d{4}-\d{2}-\d{2})/", 1)
    raw = F.col("value")
    if _codec(encoding) == "iso8859-1":
        # Spark's text source keeps the bytes; decoding them afterwards is the only way to name an encoding
        raw = F.decode(raw.cast("binary"), "ISO-8859-1")
    return text.select(name.alias("batch"), raw.alias("raw"))


def _codec(encoding: str) -> str:
    """Return Python's name of the encoding: of those that Spark decodes, one whose lines end in a line feed."""
    try:
        name = codecs.lookup(encoding).name
    except LookupError:
        name = ""
    if name not in ("utf-8", "ascii", "iso8859-1"):
        raise ConfigError(f"log.encoding {encoding!r}: is not among UTF-8 and ISO-8859-1 (latin-1); convert the log")
    return name


def _parse(config: LogConfig, lines: DataFrame, names: list[str]) -> DataFrame:
    """Part `raw` into the columns of the mapping; `malformed` says of a line that it is not whole."""
    if config.format == "jsonl":
        # Read as the only element of an array: alone, Spark would ignore whatever stands behind an object.
        kind = ArrayType(StructType([StructField(n, StringType()) for n in names]))
        rows = lines.select("batch", "raw", F.from_json(F.concat(F.lit("["), "raw", F.lit("]")), kind).alias("rows"))
        row, one = F.get("rows", F.lit(0)), F.coalesce(F.size("rows") == 1, F.lit(False))
        malformed = ~one | row.isNull()
        key = {name: name for name in names}
    else:
        # Columns by position: a header may hold anything, blanks and repetitions included.
        kind = ", ".join([*(f"c{i} string" for i in range(len(names))), f"{_CORRUPT} string"])
        options = {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": _CORRUPT, "sep": config.delimiter, "escape": '"'}
        rows = lines.select("batch", "raw", F.from_csv(F.col("raw"), kind, options).alias("row"))
        row = F.col("row")
        # from_csv answers null, not a corrupt record, for a line with no text in it
        malformed = row.isNull() | row[_CORRUPT].isNotNull() | (F.trim("raw") == "")
        key = {name: f"c{i}" for i, name in reversed(list(enumerate(names)))}
    columns = (row.getField(key[source]).alias(name) for name, source in _mapping(config, names).items())
    return _complete(rows.select("batch", "raw", malformed.alias("malformed"), *columns))


def _names(config: LogConfig, sample: list[str], batch: Batch) -> tuple[list[str], str | None]:
    """Column names of a text file by its first lines, and its header line where it has one."""
    if config.format == "csv" and sample:
        fields = _split(sample[0], config.delimiter)
        names = fields if config.header else [f"_c{i}" for i in range(len(fields))]
        _check_columns(config, names, batch)
        return names, sample[0] if config.header else None
    found: set[str] = set()
    for line in sample:
        with contextlib.suppress(ValueError, TypeError):
            found.update(json.loads(line))
    if found:  # else every sampled row is bad: they go to quarantine, and the bad share stops the run
        _check_columns(config, sorted(found), batch)
    return _json_names(config), None


def _json_names(config: LogConfig) -> list[str]:
    return sorted(set(_mapping(config, FIELDS).values()))


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
