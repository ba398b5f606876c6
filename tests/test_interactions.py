"""Events to interactions, held against plain Python; and no user or item makes a partition large."""

from __future__ import annotations

import datetime as dt
import itertools
import random
from collections import Counter, defaultdict

import pytest
from pyspark.sql import functions as F

from recsys_spark.config import Config
from recsys_spark.dataset.interactions import aggregate, mark_core, write_summed
from recsys_spark.dataset.splits import rolling_origins, split_at_random, time_part
from recsys_spark.errors import ConfigError

TYPES = {"impression": 0, "view": 1, "purchase": 3, "rating": 0.5}
UNTIL = dt.date(2026, 1, 10)
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
SCHEMA = (
    "user_id int, item_id int, event_key long, delivered int, event_type string, timestamp timestamp, date date, "
    "rating float"
)


def config_of(**dataset: object) -> Config:
    log = {"path": "t", "event_types": TYPES}
    return Config.model_validate({"name": "t", "root": "t", "log": log, "dataset": dataset})


def draw(seed: int, n: int = 400) -> list[tuple]:
    """Events with ties in time, ratings among them, and copies that a later batch delivered otherwise."""
    rng, rows = random.Random(seed), []
    for key in range(n):
        time = START + dt.timedelta(hours=rng.randrange(240), microseconds=rng.randrange(3))
        kind, user, item = rng.choice(list(TYPES)), rng.randrange(1, 9), rng.randrange(1, 12)
        rating = rng.choice([None, 1.0, 2.5, -3.0, 5.0]) if kind == "rating" else None
        rows.append((user, item, key, 5, kind, time, time.date(), rating))
        if TYPES[kind] and rng.random() < 0.3:
            rows.append((user, item, key, 6, "purchase", time + dt.timedelta(hours=1), time.date(), 4.0))
    rng.shuffle(rows)
    return rows


def plain(rows: list[tuple], half_life: float | None, part=None) -> dict[tuple, tuple]:
    first: dict[tuple, tuple] = {}
    for row in sorted(rows, key=lambda r: r[3]):
        if TYPES[row[4]]:
            first.setdefault(row[:3], row)
    groups = defaultdict(list)
    for row in first.values():
        groups[(*row[:2], part(row[6])) if part else row[:2]].append(row)
    end = dt.datetime(2026, 1, 11, tzinfo=dt.UTC)
    found = {}
    for key, events in groups.items():
        seconds = [int(e[5].timestamp()) for e in events]
        ages = [(int(end.timestamp()) - s) / 86_400 for s in seconds]
        decay = [1.0 if half_life is None else 2 ** (-age / half_life) for age in ages]
        rated = [(s, e[7]) for s, e in zip(seconds, events, strict=True) if e[7] is not None]
        weight = sum(TYPES[e[4]] * d for e, d in zip(events, decay, strict=True))
        found[key] = (pytest.approx(weight, rel=1e-5), max(rated)[1] if rated else None, max(seconds), len(events))
    return found


@pytest.mark.parametrize(("seed", "half_life"), [(1, None), (2, 3.0), (3, 0.25)])
def test_events_are_summed_up_once_each(spark, seed, half_life):
    rows = draw(seed)
    config = config_of(half_life_days=half_life)
    numbered = spark.createDataFrame(rows, SCHEMA)
    pairs = aggregate(numbered.repartition(3), config.log, config.dataset, UNTIL, None, repeated=True).collect()
    assert {(r.user_id, r.item_id): (r.weight, r.rating, r.timestamp, r.events) for r in pairs} == plain(
        rows, half_life
    )
    assert sum(r.deliveries for r in pairs) == sum(TYPES[r[4]] > 0 for r in rows) > sum(r.events for r in pairs)

    once = [r for r in rows if r[3] == 5]
    part = time_part(F.col("date"), UNTIL, valid_days=2, test_days=1, gap_days=3)
    days = [("test", 10), ("valid", 8), ("gap", 5), ("train", 1)]
    numbered = spark.createDataFrame(once, SCHEMA)
    pairs = aggregate(numbered, config.log, config.dataset, UNTIL, part, repeated=False).collect()
    expected = plain(once, half_life, lambda date: next(name for name, day in days if date.day >= day))
    assert {(r.user_id, r.item_id, r.split): (r.weight, r.rating, r.timestamp, r.events) for r in pairs} == expected
    assert {key[2] for key in expected} == {"train", "gap", "valid", "test"}


def test_too_many_weighed_types_are_refused(spark):
    log = {"path": "t", "event_types": {f"t{n}": 1 for n in range(5_000)}}
    config = Config.model_validate({"name": "t", "root": "t", "log": log})
    with pytest.raises(ConfigError, match=r"log\.event_types weighs 5000 types"):
        aggregate(spark.createDataFrame([], SCHEMA), config.log, config.dataset, UNTIL, None, repeated=False)


def test_heavy_users_are_capped_and_cold_rows_are_marked(spark, tmp_path):
    day = {"train": 1, "gap": 7, "valid": 9, "test": 10}
    rows = [
        *((1, item, "train", item) for item in (1, 2, 3, 4)),  # capped to the newest three: 2, 3, 4
        *((2, item, "train", item) for item in (2, 3)),
        (3, 9, "train", 1), (3, 2, "gap", 1), (3, 2, "valid", 1), (1, 3, "valid", 2), (4, 8, "test", 1),
        (1, 9, "test", 1),
    ]  # fmt: skip
    events = [
        (u, i, n, 0, "view", START + dt.timedelta(days=day[part] - 1, seconds=at), dt.date(2026, 1, day[part]), None)
        for n, (u, i, part, at) in enumerate(rows)
    ]
    config = config_of(k_core=2, max_user_interactions=3, gap_days=3)
    pairs = write_summed(spark.createDataFrame(events, SCHEMA), config, UNTIL, False, tmp_path / "pairs")
    found = mark_core(pairs, 2, tmp_path).collect()
    assert len(found) == len(rows)
    marks = {(r.user_id, r.item_id, r.split): (r.in_core, r.cold_user, r.cold_item) for r in found}
    core = {(1, 2), (1, 3), (2, 2), (2, 3)}  # item 4 has one user, item 1 fell to the cap, user 3 has one item
    for (user, item, part), mark in marks.items():
        expected = part == "train" and (user, item) in core
        assert mark == (expected, user not in (1, 2), item not in (2, 3)), (user, item, part)


def test_the_random_split_keeps_its_shares_and_its_word(spark):
    pairs = spark.range(20_000).select((F.col("id") % 200).alias("user_id"), (F.col("id") % 317).alias("item_id"))
    split = split_at_random(pairs, 0.1, 0.2, seed=4)
    counts = {r.split: r["count"] for r in split.groupBy("split").count().collect()}
    assert 0.09 < counts["valid"] / 20_000 < 0.11 and 0.18 < counts["test"] / 20_000 < 0.22
    again = split_at_random(pairs.repartition(7), 0.1, 0.2, seed=4)
    assert split.exceptAll(again).isEmpty()
    assert not split.exceptAll(split_at_random(pairs, 0.1, 0.2, seed=5)).isEmpty()


def test_rolling_origins_end_with_the_run_date():
    days = rolling_origins(UNTIL, folds=4, step_days=3)
    assert days[-1] == UNTIL and [(b - a).days for a, b in itertools.pairwise(days)] == [3, 3, 3]


@pytest.mark.parametrize("heavy", ["user_id", "item_id"])
def test_one_user_or_item_with_a_twentieth_of_all_events_makes_no_partition_large(spark, heavy):
    """What decides how long the slowest task takes: the events that meet on one partition."""
    n, parts = 40_000, 8
    number = F.col("id")
    light = {"user_id": 1 + F.pmod(F.xxhash64(number), F.lit(3_000)), "item_id": 1 + F.pmod(number * 7, F.lit(2_000))}
    columns = {
        name: (F.when(number % 20 == 0, F.lit(0)).otherwise(column) if name == heavy else column).cast("int")
        for name, column in light.items()
    }
    time = F.timestamp_seconds(F.lit(int(START.timestamp())) + number)
    events = spark.range(n).select(
        *(column.alias(name) for name, column in columns.items()),
        number.alias("event_key"), F.lit(0).alias("delivered"), F.lit("view").alias("event_type"),
        time.alias("timestamp"), F.to_date(time).alias("date"), F.lit(None).cast("float").alias("rating"),
    )  # fmt: skip
    assert events.where(F.col(heavy) == 0).count() == n // 20
    before = {
        k: spark.conf.get(k) for k in ("spark.sql.shuffle.partitions", "spark.sql.adaptive.coalescePartitions.enabled")
    }
    try:
        spark.conf.set("spark.sql.shuffle.partitions", parts)
        spark.conf.set("spark.sql.adaptive.coalescePartitions.enabled", False)
        config = config_of()
        pairs = aggregate(events, config.log, config.dataset, UNTIL, None, repeated=True)
        rows = pairs.groupBy(F.spark_partition_id().alias("p")).agg(F.sum("weight").alias("events")).collect()
    finally:
        for key, value in before.items():
            spark.conf.set(key, value)
    sizes = Counter({r.p: r.events for r in rows})
    assert len(sizes) == parts and sum(sizes.values()) == n
    assert max(sizes.values()) < 1.2 * n / parts, "the slowest task decides: it must not have a fifth more to do"
