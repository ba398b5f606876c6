"""Raw log -> `events`; `bots` for the events of users who are none; `quarantine` for every row that is no event.

Each batch becomes its own version of the three tables, made from that batch alone: running a day twice, or
days out of order, changes nothing. Nothing is dropped silently: rows in = events + further copies of an
event + quarantined rows + events of bots + rows of people who were erased, counted from what was written and
asserted. Copies are found first and bots among what is left, so a copy of a bot's event counts as a duplicate.

What the log no longer has:

| `log.retention_days` | a day that is gone from the log | a day past the retention |
|---|---|---|
| null | was withdrawn: it leaves the live tables and stays on disk | - |
| set (daily logs) | has expired there: the warehouse holds it | leaves the live tables and the disk |
"""

from __future__ import annotations

import datetime as dt
import functools
import shutil
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, Observation, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from recsys_spark.config import LogConfig
from recsys_spark.errors import DataError, RunError
from recsys_spark.log.bots import find_bots
from recsys_spark.log.judge import REASONS, judge
from recsys_spark.log.packed import unpack
from recsys_spark.log.privacy import current_key_id, redact
from recsys_spark.log.raw import WHOLE, Batch, find_batches, oldest_day
from recsys_spark.log.read import read_batches, readable, setting
from recsys_spark.log.sessions import fill_sessions
from recsys_spark.log.shape import changes, shape_of
from recsys_spark.log.suppression import mark_suppressed, suppressed
from recsys_spark.schemas import BOTS, EVENTS, QUARANTINE, Table
from recsys_spark.warehouse import Slot, Version, Warehouse, exclusive, fingerprint

_CODE = (
    "log/raw.py", "log/packed.py", "log/shape.py", "log/read.py", "log/judge.py", "log/sessions.py", "log/bots.py",
    "log/privacy.py", "log/suppression.py", "log/ingest.py", "schemas.py",
)  # fmt: skip
_TABLES = {QUARANTINE: "quarantined", BOTS: "bots", EVENTS: "events"}
"""What a batch becomes, and the count of its rows; `events` come last, for where they stand, all stands."""
JUDGED = "judged"
ERASED = "erased"
KEY = "key"
"""In a batch's manifest: the id of the key that its pseudonyms are under, null where it has none."""
_COUNTS = ("rows_in", "events", "duplicates", "quarantined", "bots", "erased", *REASONS)
_ELSEWHERE: dict[str, Any] = {
    **dict.fromkeys(("generate", "items", "max_bad_share", "path", "gates", "retention_days"), True),
    "privacy": {"key_variable", "key_file", "old_key_files", "retrain_days"},
}
"""Settings that do not change what a batch becomes: of the pseudonym key it is the key, not where it lies."""


@dataclass(frozen=True)
class IngestResult:
    """The live version of every batch up to the run date, and what was done now."""

    events: dict[str, Version]
    built: int
    counts: dict[str, int]
    """Sums over `events`, by what `_COUNTS` lists."""
    changes: dict[str, list[str]] = field(default_factory=dict)
    """What changed in the log's columns, by each batch that differs from the one before it."""


def ingest(spark: SparkSession, warehouse: Warehouse, config: LogConfig, until: dt.date | None) -> IngestResult:
    """Bring `events` up to date with the batches delivered until a day.

    Raises:
        ConfigError: `log.columns`, `log.event_types` or `log.encoding` names what there is none of.
        DataError: no log, no such day, a file that cannot be read, a column that is gone, or more than
            `log.max_bad_share` of a batch's rows are bad.
    """
    batches = {b.name: b for b in find_batches(config, until)}
    settings = (config.model_dump(exclude=_ELSEWHERE), current_key_id(config.privacy))
    names = {n: f"{n}-{fingerprint(_CODE, settings, b.state())}" for n, b in batches.items()}
    pending = [b for n, b in batches.items() if warehouse.slot(EVENTS.name, batch=n).version(names[n]) is None]
    if pending:
        with exclusive(warehouse.root.absolute() / ".ingest"), readable():
            _build(spark, warehouse, config, pending, names)
    events: dict[str, Version] = {}
    for name, batch in batches.items():
        for table in _TABLES:
            slot = warehouse.slot(table.name, batch=name)
            version = slot.version(names[name])
            assert version is not None
            if table is EVENTS:  # the quarantine of a bad batch is live by now: people need to look at it
                _check_share(batch, config, version.manifest["counts"])
                events[name] = version
            slot.flip(version)
    held = _retire(warehouse, config, set(batches), until)
    events = dict(sorted({**events, **held}.items()))
    counts = {k: sum(v.manifest["counts"].get(k, 0) for v in events.values()) for k in _COUNTS}
    found = {b: changes(events[a].manifest, events[b].manifest) for a, b in pairwise(events)}
    return IngestResult(events, len(pending), counts, {b: texts for b, texts in found.items() if texts})


def _retire(warehouse: Warehouse, config: LogConfig, batches: set[str], until: dt.date | None) -> dict[str, Version]:
    """Take out of the live tables what the log no longer has, up to the day; see the module's table.

    Withdrawn versions stay on disk; delivered again, the same files are live again without being read.

    Returns:
        The live events of the days that only the warehouse holds.
    """
    held: dict[str, Version] = {}
    oldest = oldest_day(config, until.isoformat() if until is not None and WHOLE not in batches else max(batches))
    for batch in sorted(set(warehouse.keys(EVENTS.name, "batch")) - batches):
        later = until is not None and WHOLE not in (batch, *batches) and batch > until.isoformat()
        live = warehouse.slot(EVENTS.name, batch=batch).current()
        if later:
            continue
        if oldest is not None and batch != WHOLE and batch >= oldest and live is not None:
            held[batch] = live
            continue
        for table in _TABLES:
            warehouse.slot(table.name, batch=batch).retire()
    if oldest is not None:
        _expire(warehouse, oldest)
    return held


def _expire(warehouse: Warehouse, oldest: str) -> None:
    """Delete every version of the days before one, those of withdrawn days included."""
    for table in _TABLES:
        for folder in sorted((warehouse.root.absolute() / table.name).glob("batch=*")):
            name = folder.name.removeprefix("batch=")
            if name != WHOLE and name < oldest:
                slot = Slot(folder)
                slot.retire()
                for version in slot.versions():
                    slot.remove(version)


def _build(
    spark: SparkSession, warehouse: Warehouse, config: LogConfig, batches: list[Batch], names: dict[str, str]
) -> None:
    """Write all pending batches in one pass over the raw log, then hand each to its slot."""
    aside = warehouse.root.absolute() / ".ingest" / "aside"
    shutil.rmtree(aside, ignore_errors=True)
    before = [batch.state() for batch in batches]
    files = unpack(spark, batches, aside / "unpacked")
    shapes = [shape_of(config, batch, files[batch.name]) for batch in batches]
    judged = judge(read_batches(spark, config, shapes), config)
    # Of a judged row nothing has been written or logged yet. The erased go by their raw ids, so they go first.
    judged = redact(mark_suppressed(judged, suppressed(spark, warehouse, config), config), config)
    # A task writes a fortnight's batches side by side; more of them it sorts first.
    with setting(spark, "spark.sql.maxConcurrentOutputFileWriters", "16"):
        _write(spark, config, judged, aside)
    if [batch.state() for batch in batches] != before:
        raise DataError(f"{config.resolve()}: the log changed while it was read; run again")

    counts, last_days = _count(spark, aside, [b.name for b in batches])
    key = current_key_id(config.privacy)
    for table in _TABLES:
        for batch, shape in zip(batches, shapes, strict=True):
            entries = {"counts": counts[batch.name], "last_day": last_days.get(batch.name), **shape.entries(), KEY: key}
            adopt = functools.partial(_adopt, spark, aside, table, batch, entries)
            warehouse.slot(table.name, batch=batch.name).materialize(names[batch.name], adopt, flip=False)
    shutil.rmtree(aside, ignore_errors=True)


def _write(spark: SparkSession, config: LogConfig, judged: DataFrame, aside: Path) -> None:
    """Write what the rows become, by table and batch, below `aside`."""
    kept = [c for c in EVENTS.schema.names if c != "copies"]
    of_erased = F.col("erased")  # of whom not even the scratch holds more than that there was a row
    raw = F.when(~of_erased & F.col("reason").isNotNull(), F.col("raw")).alias("raw")  # that of a good row has served
    judged = judged.select(
        "batch",
        F.when(of_erased, ERASED).otherwise(F.col("reason")).alias("reason"),
        raw,
        *(F.when(~of_erased, F.col(c)).alias(c) for c in ("digest", *kept)),
    )
    seen = Observation()
    without_session = F.count_if(F.col("reason").isNull() & F.col("session_id").isNull())
    observed = judged.observe(seen, without_session.alias("without_session"))
    observed.write.option("compression", "lz4").parquet(str(aside / JUDGED))
    judged = spark.read.schema(judged.schema).parquet(str(aside / JUDGED))
    bad = judged.where(F.col("reason") != ERASED).select("batch", "raw", "reason")
    bad.write.partitionBy("batch").parquet(str(aside / QUARANTINE.name))

    good = deduplicate(judged.where("reason is null")).persist()
    bots = find_bots(good, config).persist()
    try:
        rows = fill_sessions(good, config.session_gap_minutes) if seen.get["without_session"] else good
        of_people = rows.join(F.broadcast(bots), ["batch", "user_id"], "left_anti")
        of_bots = rows.join(F.broadcast(bots), ["batch", "user_id"])
        for table, kept in ((EVENTS, of_people), (BOTS, of_bots)):
            kept.select("batch", *table.schema.names).write.partitionBy("batch").parquet(str(aside / table.name))
    finally:
        bots.unpersist()
        good.unpersist()


def deduplicate(events: DataFrame) -> DataFrame:
    """Keep one row per (batch, event_id), the earliest and then the smallest `digest`, with its `copies`."""
    by_time = Window.partitionBy("batch", "event_id").orderBy("timestamp", "digest")
    every = by_time.rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing)
    numbered = events.select(
        "*", F.count("*").over(every).cast("int").alias("copies"), F.row_number().over(by_time).alias("place")
    )
    return numbered.where("place = 1").drop("place", "digest")


def _count(spark: SparkSession, aside: Path, batches: list[str]) -> tuple[dict[str, dict[str, int]], dict[str, str]]:
    """Count what was written, by batch, hold it against the rows that came in, and find the last days."""
    one, no_day = F.lit(1).alias("rows"), F.lit(None).cast("date").alias("day")
    judged = spark.read.schema("batch string, reason string").parquet(str(aside / JUDGED))
    written = judged.select("batch", F.lit("rows_in").alias("name"), one, no_day)
    written = written.union(judged.where(F.col("reason") == ERASED).select("batch", "reason", one, no_day))
    for table, name, rows, day in (
        (EVENTS, F.lit("events"), "copies", "date"),
        (BOTS, F.lit("bots"), "copies", no_day),
        (QUARANTINE, F.col("reason"), one, no_day),
    ):
        if any((aside / table.name).glob("batch=*")):
            by_batch = StructType([StructField("batch", StringType()), *table.schema.fields])
            found = spark.read.schema(by_batch).parquet(str(aside / table.name))
            written = written.union(found.select("batch", name, rows, day))
    n, came, last_day = F.count("*").alias("n"), F.sum("rows").alias("came"), F.max("day").alias("last_day")
    last_days: dict[str, str] = {}
    counts = {batch: dict.fromkeys(_COUNTS, 0) for batch in batches}
    for row in written.groupBy("batch", "name").agg(n, came, last_day).collect():
        counts[row.batch][row["name"]] = row.n
        counts[row.batch]["duplicates"] += row.came - row.n
        counts[row.batch]["quarantined"] += row.n if row["name"] in REASONS else 0
        if row.last_day is not None:
            last_days[row.batch] = str(row.last_day)
    for batch, c in counts.items():
        lost = c["rows_in"] - c["events"] - c["duplicates"] - c["quarantined"] - c["bots"] - c["erased"]
        if lost:
            raise DataError(
                f"batch {batch}: {lost} of {c['rows_in']} rows unaccounted for; did the log change meanwhile?"
            )
    return counts, last_days


def _check_share(batch: Batch, config: LogConfig, counts: dict[str, int]) -> None:
    if not counts["rows_in"]:
        raise DataError(f"{batch.path}: holds no row; remove the folder, or deliver the day again")
    share = counts["quarantined"] / counts["rows_in"]
    if share > config.max_bad_share or not counts["events"] + counts["bots"]:
        worst = max(REASONS, key=lambda r: counts[r])
        raise DataError(
            f"{batch.path}: {share:.1%} of {counts['rows_in']} rows are bad (log.max_bad_share is "
            f"{config.max_bad_share:.1%}), most of them {worst}: {REASONS[worst]}; see the quarantine table"
        )
    if not counts["events"]:
        raise DataError(f"{batch.path}: every event is of a user who breaks a rule of log.bots; mend the rules")


def _adopt(
    spark: SparkSession, aside: Path, table: Table, batch: Batch, entries: dict[str, Any], path: Path
) -> dict[str, Any]:
    source = aside / table.name / f"batch={batch.name}"
    if source.is_dir():
        shutil.move(source, path / "data")
    elif entries["counts"][_TABLES[table]]:
        raise RunError(f"{source}: is gone; another run is ingesting into this warehouse, wait for it to end")
    else:  # no row of this kind in the batch: an empty table still has its schema
        empty = aside / "empty" / table.name
        if not empty.is_dir():
            spark.createDataFrame([], table.schema).coalesce(1).write.parquet(str(empty))
        shutil.copytree(empty, path / "data")
    return {"table": table.name, "batch": batch.name, "source": str(batch.path), "parents": [], **entries}
