"""Raw log -> `events`, and `quarantine` for every row that is none.

Each batch becomes its own version of `events` and `quarantine`, made from that batch alone: running a day
twice, or days out of order, changes nothing. Nothing is dropped silently: rows in = events + further
copies of an event + quarantined rows, counted from what was written and asserted.
"""

from __future__ import annotations

import datetime as dt
import functools
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.config import LogConfig
from recsys_spark.errors import DataError, RunError
from recsys_spark.log.raw import WHOLE, Batch, find_batches, read_batches
from recsys_spark.schemas import EVENTS, QUARANTINE, Table
from recsys_spark.warehouse import Version, Warehouse, exclusive, fingerprint

REASONS = {
    "malformed": "not a whole line of the log's format",
    "missing_user": "no user id",
    "missing_item": "no item id",
    "unknown_type": "an event type that log.event_types does not list",
    "bad_timestamp": "a time that cannot be read, or before 1970",
    "future": "later than the day on which the row arrived, or today",
    "too_late": "arrived more than log.late_days after its day",
    "bad_rating": "a rating that is not a number",
}
"""The closed list of reasons; a row gets the first that holds."""

_CODE = ("log/raw.py", "log/ingest.py", "schemas.py")


@dataclass(frozen=True)
class IngestResult:
    """The live version of every batch up to the run date, and what was done now."""

    events: dict[str, Version]
    built: int
    counts: dict[str, int]


def ingest(spark: SparkSession, warehouse: Warehouse, config: LogConfig, until: dt.date | None) -> IngestResult:
    """Bring `events` up to date with the batches delivered until a day.

    Raises:
        DataError: no log, no such day, or more than `log.max_bad_share` of a batch's rows are bad.
    """
    batches = {b.name: b for b in find_batches(config, until)}
    settings = config.model_dump(exclude={"generate", "items", "max_bad_share", "path"})
    names = {n: f"{n}-{fingerprint(_CODE, settings, b.state())}" for n, b in batches.items()}
    pending = [b for n, b in batches.items() if warehouse.slot("events", batch=n).version(names[n]) is None]
    if pending:
        with exclusive(warehouse.root.absolute() / ".ingest"):
            _build(spark, warehouse, config, pending, names)
    events: dict[str, Version] = {}
    for name, batch in batches.items():
        for table in (QUARANTINE, EVENTS):
            slot = warehouse.slot(table.name, batch=name)
            version = slot.version(names[name])
            assert version is not None
            if table is EVENTS:  # the quarantine of a bad batch is live by now: people need to look at it
                _check_share(batch, config, version.manifest["counts"])
                events[name] = version
            slot.flip(version)
    _retire(warehouse, set(batches), until)
    counts = {k: sum(v.manifest["counts"][k] for v in events.values()) for k in _COUNTS}
    return IngestResult(events, len(pending), counts)


def _retire(warehouse: Warehouse, batches: set[str], until: dt.date | None) -> None:
    """Take what the log no longer has, up to the day, out of the live events: a delivery that was withdrawn.

    Its versions stay on disk; delivered again, the same files are live again without being read.
    """
    for batch in set(warehouse.keys(EVENTS.name, "batch")) - batches:
        later = until is not None and WHOLE not in (batch, *batches) and batch > until.isoformat()
        for table in () if later else (EVENTS, QUARANTINE):
            warehouse.slot(table.name, batch=batch).retire()


_COUNTS = ("rows_in", "events", "duplicates", "quarantined", *REASONS)


def _build(
    spark: SparkSession, warehouse: Warehouse, config: LogConfig, batches: list[Batch], names: dict[str, str]
) -> None:
    """Write all pending batches in two passes over the raw log, then hand each to its slot."""
    aside = warehouse.root.absolute() / ".ingest" / "aside"
    shutil.rmtree(aside, ignore_errors=True)
    rows = read_batches(spark, config, batches)
    judged = judge(rows, config)
    good = judged.where("reason is null")
    bad = judged.where("reason is not null").select("batch", "raw", "reason")
    bad.write.partitionBy("batch").parquet(str(aside / QUARANTINE.name))
    deduplicate(good).select("batch", *EVENTS.schema.names).write.partitionBy("batch").parquet(str(aside / EVENTS.name))

    rows_in = {row["batch"]: row["count"] for row in rows.groupBy("batch").count().collect()}
    counts, last_days = _count(spark, aside, {b.name: rows_in.get(b.name, 0) for b in batches})
    for table in (QUARANTINE, EVENTS):
        for batch in batches:
            entries = {"counts": counts[batch.name], "last_day": last_days.get(batch.name)}
            adopt = functools.partial(_adopt, spark, aside, table, batch, entries)
            warehouse.slot(table.name, batch=batch.name).materialize(names[batch.name], adopt, flip=False)
    shutil.rmtree(aside, ignore_errors=True)


def judge(rows: DataFrame, config: LogConfig) -> DataFrame:
    """Type the text columns and add `reason`, null for a good row."""
    kind = F.col("event_type")
    if config.default_type is not None:
        kind = F.coalesce(kind, F.lit(config.default_type))
    rating = F.col("rating").try_cast("float")  # reads "NaN" and "inf", too
    typed = rows.select(
        "batch", "raw", "malformed",
        *(F.nullif(F.trim(c), F.lit("")).alias(c) for c in ("user_id", "item_id", "session_id", "device", "country")),
        F.coalesce(F.nullif(F.trim("event_id"), F.lit("")), F.md5("raw")).alias("event_id"),
        kind.alias("event_type"),
        _timestamp(config.timestamps).alias("timestamp"),
        rating.alias("rating"),
        (F.col("rating").isNotNull() & ~F.coalesce(F.abs(rating) < float("inf"), F.lit(False))).alias("bad_rating"),
        F.col("position").try_cast("int").alias("position"),
        F.col("split").alias("split"),
    )  # fmt: skip
    typed = typed.withColumn("date", F.to_date("timestamp"))
    delivered = F.when(F.col("batch") != WHOLE, F.col("batch").try_cast("date"))  # null for a whole log
    checks = {
        "malformed": F.col("malformed"),
        "missing_user": F.col("user_id").isNull(),
        "missing_item": F.col("item_id").isNull(),
        "unknown_type": F.col("event_type").isNull() | ~F.col("event_type").isin(*config.event_types),
        "bad_timestamp": F.col("timestamp").isNull() | (F.col("timestamp") < F.lit("1970-01-01").cast("timestamp")),
        "future": F.coalesce(F.col("date") > F.coalesce(delivered, F.current_date()), F.lit(False)),
        "too_late": F.coalesce(F.datediff(delivered, "date") > config.late_days, F.lit(False)),
        "bad_rating": F.col("bad_rating"),
    }
    assert list(checks) == list(REASONS)
    reason = F.coalesce(*(F.when(check, F.lit(name)) for name, check in checks.items()))
    return typed.withColumn("reason", reason)


def _timestamp(kind: str) -> Column:
    text = F.col("timestamp")
    if kind == "iso":  # Spark alone would take 10:00 for a time of today, whenever that is
        return F.when(text.rlike(r"^\s*\d{4}-\d{1,2}-\d"), text.try_cast("timestamp"))
    number = text.try_cast("double")
    seconds = number if kind == "seconds" else number / 1000
    # a double past year 9999 would overflow the cast, so it is as unreadable as a word
    return F.when(F.abs(seconds) < 253402300800, F.timestamp_seconds(seconds))


def deduplicate(events: DataFrame) -> DataFrame:
    """Keep one row per (batch, event_id), the earliest and then the smallest raw text, with its `copies`."""
    columns = [c for c in EVENTS.schema.names if c not in ("event_id", "copies")]
    first = F.min(F.struct("timestamp", "raw", *(c for c in columns if c != "timestamp"))).alias("first")
    grouped = events.groupBy("batch", "event_id").agg(first, F.count("*").cast("int").alias("copies"))
    return grouped.select("batch", "event_id", "copies", *(F.col(f"first.{c}") for c in columns))


def _count(
    spark: SparkSession, aside: Path, rows_in: dict[str, int]
) -> tuple[dict[str, dict[str, int]], dict[str, str]]:
    """Count what was written, by batch, hold it against the rows that came in, and find the last days."""
    last_days: dict[str, str] = {}
    counts = {batch: dict.fromkeys(_COUNTS, 0) | {"rows_in": n} for batch, n in rows_in.items()}
    events, bad = _written(spark, aside / EVENTS.name), _written(spark, aside / QUARANTINE.name)
    if events is not None:
        kept, came = F.count("*").alias("kept"), F.sum("copies").alias("came")
        for row in events.groupBy("batch").agg(kept, came, F.max("date").alias("last_day")).collect():
            counts[row.batch] |= {"events": row.kept, "duplicates": row.came - row.kept}
            last_days[row.batch] = str(row.last_day)
    if bad is not None:
        for row in bad.groupBy("batch", "reason").agg(F.count("*").alias("n")).collect():
            counts[row.batch][row.reason] = row.n
            counts[row.batch]["quarantined"] += row.n
    for batch, n in counts.items():
        lost = n["rows_in"] - n["events"] - n["duplicates"] - n["quarantined"]
        if lost:
            raise DataError(
                f"batch {batch}: {lost} of {n['rows_in']} rows unaccounted for; did the log change meanwhile?"
            )
    return counts, last_days


def _written(spark: SparkSession, table: Path) -> DataFrame | None:
    """Read a table that was written by batch; None where no batch had a row for it."""
    if not any(table.glob("batch=*")):
        return None
    rows = spark.read.parquet(str(table))
    return rows.withColumn("batch", F.col("batch").cast("string"))  # Spark reads a day's name as a date


def _check_share(batch: Batch, config: LogConfig, counts: dict[str, int]) -> None:
    if not counts["rows_in"]:
        raise DataError(f"{batch.path}: holds no row; remove the folder, or deliver the day again")
    share = counts["quarantined"] / counts["rows_in"]
    if share > config.max_bad_share or not counts["events"]:
        worst = max(REASONS, key=lambda r: counts[r])
        raise DataError(
            f"{batch.path}: {share:.1%} of {counts['rows_in']} rows are bad (log.max_bad_share is "
            f"{config.max_bad_share:.1%}), most of them {worst}: {REASONS[worst]}; see the quarantine table"
        )


def _adopt(
    spark: SparkSession, aside: Path, table: Table, batch: Batch, entries: dict[str, Any], path: Path
) -> dict[str, Any]:
    source = aside / table.name / f"batch={batch.name}"
    if source.is_dir():
        shutil.move(source, path / "data")
    elif entries["counts"]["events" if table is EVENTS else "quarantined"]:
        raise RunError(f"{source}: is gone; another run is ingesting into this warehouse, wait for it to end")
    else:  # no row of this kind in the batch: an empty table still has its schema
        table.conform(spark.createDataFrame([], table.schema)).coalesce(1).write.parquet(str(path / "data"))
    return {"table": table.name, "batch": batch.name, **entries}
