"""What a day of events looks like, in a few kilobytes: made once per version of its events, and kept.

The gates compare days, and a day takes part in many comparisons; its profile is what they read instead of
its events. All the days that lack one are profiled together, in three aggregations, whatever their number.
A profile is over the events of the batch's own day; those that came late are counted, no more. Of a whole log
nothing is held against other days, so that its profile has no histograms and no samples of keys.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import FractionalType, IntegralType

from recsys_spark.log.key_sample import SIZE, KeySample
from recsys_spark.log.raw import WHOLE
from recsys_spark.schemas import EVENTS
from recsys_spark.warehouse import Version, Warehouse, fingerprint

PROFILES = "profiles"
HOUR = "hour"
"""Hour of the timestamp, UTC: a column that a histogram may be of, beside those of `events`."""
TOP = 1_000
"""Most values of a histogram; what is rarer is counted together."""
OF_PEOPLE = ("user_id", "event_id", "session_id")
"""Columns whose values belong to a person each: no histogram is made of them."""
_KEYS = ("user_id", "item_id")
_CODE = ("log/profile.py", "log/key_sample.py", "schemas.py")


@dataclass(frozen=True)
class Histogram:
    """How often each value of a column occurs; histograms of several days add up."""

    numeric: bool
    """Numbers are rounded to two significant digits, which bounds how many there can be."""
    values: dict[str, int]
    """The `TOP` most frequent values, as text; `float(value)` where they are numbers."""
    other: int = 0
    """Events with any other value."""
    missing: int = 0
    """Events with none."""

    def __add__(self, more: Histogram) -> Histogram:
        values = dict(self.values)
        for value, count in more.values.items():
            values[value] = values.get(value, 0) + count
        return Histogram(self.numeric, values, self.other + more.other, self.missing + more.missing)


@dataclass(frozen=True)
class Profile:
    """A batch of `events`, summarised."""

    batch: str
    """A day, or `all`."""
    events: int
    """Of the batch's own day (of a whole log: all); so are all figures but the next six."""
    late: int
    """Events of earlier days."""
    rows_in: int
    """Rows of the raw log, as `ingest` counted them; so are the four that follow."""
    quarantined: int
    duplicates: int
    bots: int
    kept: int
    """Events of any day."""
    nulls: dict[str, int]
    """By column of `events`, and by those of `log.attributes` that were asked for: events without it."""
    last: dt.datetime | None
    """The last event's time."""
    histograms: dict[str, Histogram]
    users: KeySample | None
    items: KeySample | None

    @property
    def day(self) -> dt.date | None:
        """The day that it is of; None for a whole log."""
        return None if self.batch == WHOLE else dt.date.fromisoformat(self.batch)

    @property
    def bad_share(self) -> float:
        """Quarantined rows / rows in."""
        return self.quarantined / self.rows_in if self.rows_in else 0.0

    @property
    def bot_share(self) -> float:
        """Events of bots / events with them."""
        return self.bots / (self.kept + self.bots) if self.kept + self.bots else 0.0


def known_columns(attributes: Sequence[str]) -> list[str]:
    """Return the columns that a profile can be asked about: of `events`, of `log.attributes`, and `hour`."""
    return [*(c for c in EVENTS.schema.names if c not in ("attributes", "timestamp")), HOUR, *attributes]


def profile_batches(
    spark: SparkSession,
    warehouse: Warehouse,
    events: Mapping[str, Version],
    columns: Sequence[str] = (),
    counted: Sequence[str] = (),
) -> dict[str, Profile]:
    """Return the profiles of batches, making at once those that are not there yet.

    Args:
        events: the version of `events` of each batch.
        columns: those that get a histogram, out of `known_columns`; the event types always do. None of `OF_PEOPLE`: a
            profile would keep its values.
        counted: attributes whose nulls are counted, and no more.
    """
    columns = sorted({"event_type", *columns})
    counted = sorted({*counted} - {*EVENTS.schema.names, HOUR, *columns})
    names = {b: f"{b}-{fingerprint(_CODE, v.name, columns, counted)}" for b, v in events.items()}
    slots = {b: warehouse.slot(PROFILES, batch=b) for b in events}
    pending = {b: v for b, v in events.items() if slots[b].version(names[b]) is None}
    made = _profile(spark, pending, columns, counted) if pending else {}

    def build(batch: str, path: Path) -> dict[str, Any]:
        write(made[batch], path)
        return {
            "table": PROFILES, "batch": batch, "events": pending[batch].name, "columns": [*columns, *counted],
            **warehouse.parents(pending[batch]),
        }  # fmt: skip

    return {b: read(s.materialize(names[b], functools.partial(build, b))[0].path) for b, s in slots.items()}


def standing_profile(warehouse: Warehouse, batch: str) -> Profile | None:
    """Return the profile that a batch got while its events were here, or None."""
    version = warehouse.slot(PROFILES, batch=batch).current()
    return read(version.path) if version else None


def write(profile: Profile, path: Path) -> None:
    """Write a profile into a folder."""
    plain = {k: v for k, v in vars(profile).items() if k not in ("users", "items", "histograms")}
    plain["histograms"] = {c: vars(h) for c, h in profile.histograms.items()}
    (path / "profile.json").write_text(json.dumps(plain, default=str), encoding="utf-8")
    for name, sample in (("users", profile.users), ("items", profile.items)):
        if sample is not None:
            np.save(path / f"{name}.npy", sample.hashes)


def read(path: Path) -> Profile:
    """Read what `write` wrote."""
    plain = json.loads((path / "profile.json").read_text(encoding="utf-8"))
    last = plain["last"] and dt.datetime.fromisoformat(plain["last"])
    histograms = {c: Histogram(**h) for c, h in plain["histograms"].items()}
    files = {name: path / f"{name}.npy" for name in ("users", "items")}
    samples = {name: KeySample(np.load(file)) if file.exists() else None for name, file in files.items()}
    return Profile(**{**plain, "last": last, "histograms": histograms, **samples})


def _profile(
    spark: SparkSession, events: Mapping[str, Version], columns: Sequence[str], more: Sequence[str]
) -> dict[str, Profile]:
    rows = _read(spark, events)
    whole = F.col("batch") == WHOLE
    own = rows.where(whole | (F.col("date") == F.col("batch").try_cast("date")))
    counted = [*EVENTS.schema.names, *(c for c in (*columns, *more) if c not in (*EVENTS.schema.names, HOUR))]
    figures = _figures(rows, counted)
    days = own.where(~whole)
    any_day = any(b != WHOLE for b in events)
    histograms = _histograms(days, columns, figures) if any_day else {}
    keys = _keys(days) if any_day else {}
    profiles = {}
    for batch, version in events.items():
        found, counts = figures.get(batch, {}), version.manifest.get("counts", {})
        last = found.get("last")
        kept = int(found.get("kept", 0))
        profiles[batch] = Profile(
            batch=batch,
            events=int(found.get("events", 0)),
            late=kept - int(found.get("events", 0)),
            rows_in=counts.get("rows_in", kept),
            quarantined=counts.get("quarantined", 0),
            duplicates=counts.get("duplicates", 0),
            bots=counts.get("bots", 0),
            kept=kept,
            nulls={c: int(found.get(f"null {c}", 0)) for c in counted},
            last=None if last is None else dt.datetime.fromtimestamp(last / 1e6, dt.UTC),
            histograms=histograms.get(batch, {}),
            users=keys.get((batch, "user_id")),
            items=keys.get((batch, "item_id")),
        )
    return profiles


def _read(spark: SparkSession, events: Mapping[str, Version]) -> DataFrame:
    """Read several batches as one table, with the batch of each row.

    With the schema given, Spark opens no file before the aggregation does.
    """
    rows = spark.read.schema(EVENTS.schema).parquet(*(v.data for v in events.values()))
    batch = F.regexp_extract(F.col("_metadata.file_path"), f".*/{EVENTS.name}/batch=([^/]+)/", 1)
    return rows.withColumn("batch", batch)


def _figures(rows: DataFrame, counted: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return by batch the counts of events, of nulls per column, and the last time in microseconds."""
    own = (F.col("batch") == WHOLE) | (F.col("date") == F.col("batch").try_cast("date"))
    nulls = [F.count_if(own & _value(c).isNull()).alias(f"null {c}") for c in counted]
    last = F.max(F.when(own, F.unix_micros("timestamp"))).alias("last")
    found = rows.groupBy("batch").agg(F.count("*").alias("kept"), F.count_if(own).alias("events"), last, *nulls)
    return {row["batch"]: row.asDict() for row in found.collect()}


def _histograms(
    days: DataFrame, columns: Sequence[str], figures: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Histogram]]:
    """Return by batch and column the histogram: one row per event and column, counted where the events lie."""
    pairs = [F.struct(F.lit(c).alias("name"), _column(c).alias("value")) for c in columns]
    counted = days.select("batch", F.explode(F.array(*pairs)).alias("pair")).groupBy("batch", "pair").count()
    flat = counted.select("batch", "pair.name", "pair.value", "count")
    # Spark cuts every partition down to the first rows of each group before it brings the groups together.
    rank = F.expr("row_number() over (partition by batch, name order by value is not null, count desc, value)")
    table: pd.DataFrame = flat.withColumn("rank", rank).where(F.col("rank") <= TOP + 1).toPandas()
    found: dict[str, dict[str, Histogram]] = {}
    for key, group in table.groupby(["batch", "name"]):
        batch, name = map(str, key)
        values = group[group["value"].notna()].sort_values("rank")[:TOP]  # the row without a value ranks first
        counts = {str(v): int(n) for v, n in zip(values["value"], values["count"], strict=True)}
        missing = int(group.loc[group["value"].isna(), "count"].sum())
        other = int(figures[batch]["events"]) - sum(counts.values()) - missing
        found.setdefault(batch, {})[name] = Histogram(_is_number(name), counts, other, missing)
    return found


def _keys(days: DataFrame) -> dict[tuple[str, str], KeySample]:
    """Return by batch and key column the sample of its keys."""
    pairs = [F.struct(F.lit(c).alias("name"), F.xxhash64(c).alias("hash")) for c in _KEYS]
    hashes = days.select("batch", F.explode(F.array(*pairs)).alias("pair")).distinct()
    rank = F.expr("row_number() over (partition by batch, pair.name order by pair.hash)")
    smallest = hashes.withColumn("rank", rank).where(F.col("rank") <= SIZE)
    table: pd.DataFrame = smallest.select("batch", "pair.name", "pair.hash").toPandas()
    groups = table.groupby(["batch", "name"])["hash"]
    return {(str(batch), str(name)): KeySample.of(hashes.to_numpy()) for (batch, name), hashes in groups}


def _is_number(column: str) -> bool:
    known = {f.name: f.dataType for f in EVENTS.schema.fields}
    return isinstance(known.get(column), FractionalType | IntegralType)


def _value(column: str) -> Column:
    """The column as `events` has it; what is none of its columns is an attribute."""
    return F.col(column) if column in EVENTS.schema.names else F.try_element_at("attributes", F.lit(column))


def _column(column: str) -> Column:
    """What a histogram counts, as text: hours, numbers rounded to two significant digits, or the values."""
    if column == HOUR:
        return F.format_string("%02d", F.hour("timestamp"))
    if not _is_number(column):
        return _value(column).cast("string")
    number = _value(column).cast("double") + F.lit(0.0)  # -0.0 is 0
    return F.when(F.abs(number) < float("inf"), F.format_string("%.1e", number))  # NaN is above every number
