"""Which users are no people: against a detector in plain Python, and against the truth of an embedded log."""

from __future__ import annotations

import datetime as dt
import itertools
import random
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys_spark.config import GeneratorConfig, LogConfig
from recsys_spark.log.bots import RULES, find_bots
from recsys_spark.log.generate import generate_log
from recsys_spark.log.ingest import ingest
from recsys_spark.warehouse import Warehouse

TYPES = {"impression": 0, "view": 1, "click": 1}
START = dt.datetime(2026, 3, 1)
SECOND = 10**6


def config_of(**bots: object) -> LogConfig:
    limits = {"events_per_minute": 12, "items_per_hour": 8, "regular_events": 10, "regular_spread": 0.05}
    return LogConfig.model_validate({"path": "log", "event_types": TYPES, "bots": {**limits, **bots}})


def detect(rows: list[tuple], config: LogConfig) -> set[tuple]:
    """(batch, user, rule), once more in plain Python; rows are (batch, user, item, type, microseconds)."""
    limits, users = config.bots, defaultdict(list)
    for batch, user, item, kind, at in rows:
        users[batch, user].append((item, kind, at))
    found = set()
    for (batch, user), events in users.items():
        acts, moments, items = defaultdict(int), defaultdict(set), defaultdict(set)
        for item, kind, at in events:
            minute = at // (60 * SECOND)
            moments[minute].add(at)
            if kind != "impression":
                acts[minute] += 1
                items[at // (3_600 * SECOND)].add(item)
        for at in {at for _, kind, at in events if kind == "impression"}:
            acts[at // (60 * SECOND)] += 1
        chosen = sorted({at for _, kind, at in events if kind != "impression"})
        gaps = [min(b - a, 86_400 * SECOND) for a, b in itertools.pairwise(chosen)]
        broken = set()
        if limits.events_per_minute and any(
            n > limits.events_per_minute and len(moments[m]) > 1 for m, n in acts.items()
        ):
            broken.add("events_per_minute")
        if limits.items_per_hour and any(len(i) > limits.items_per_hour for i in items.values()):
            broken.add("items_per_hour")
        if limits.regular_events and len(chosen) >= limits.regular_events:
            mean = sum(gaps) / len(gaps)
            variance = sum((g - mean) ** 2 for g in gaps) / len(gaps)
            if mean <= 3_600 * SECOND and variance**0.5 < limits.regular_spread * mean:
                broken.add("regularity")
        if broken:
            found.add((batch, user, next(rule for rule in RULES if rule in broken)))
    return found


def random_user(rng: random.Random, batch: str, user: str) -> list[tuple]:
    at, rows = rng.randrange(80_000) * SECOND, []
    step = rng.choice([1, 3, 30, 300, 3_000, 4_000]) * SECOND
    jitter = rng.choice([0, 0.02, 0.2, 1.0])
    for _ in range(rng.choice([3, 9, 10, 11, 14, 30])):
        kind = rng.choice(["view", "view", "view", "impression"])
        together = rng.choice([1, 1, 15]) if kind == "impression" or rng.random() < 0.05 else 1
        rows += [(batch, user, f"i{rng.randrange(rng.choice([5, 50]))}", kind, at) for _ in range(together)]
        at += max(1, int(step * (1 + jitter * rng.uniform(-1, 1)))) if rng.random() < 0.98 else 0
    return rows


@given(seed=st.integers(0, 2**32), off=st.sampled_from([{}, *({rule: None} for rule in (
    "events_per_minute", "items_per_hour", "regular_events"))]))  # fmt: skip
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_users_against_a_plain_detector(spark, seed, off):
    rng = random.Random(seed)
    rows = [row for batch in ("a", "b") for u in range(60) for row in random_user(rng, batch, f"u{u}")]
    rng.shuffle(rows)
    config = config_of(**off)
    times = [(*row[:4], START + dt.timedelta(microseconds=row[4])) for row in rows]
    schema = "batch string, user_id string, item_id string, event_type string, timestamp timestamp"
    found = {tuple(row) for row in find_bots(spark.createDataFrame(times, schema), config).collect()}
    expected = detect(rows, config)
    assert found == expected
    assert len(expected) > 5, "the draw is to hold some"


def test_no_rule_finds_nobody(spark):
    rows = [("a", "u", "i", "view", START)] * 100
    events = spark.createDataFrame(
        rows, "batch string, user_id string, item_id string, event_type string, timestamp timestamp"
    )
    config = config_of(events_per_minute=None, items_per_hour=None, regular_events=None)
    assert find_bots(events, config).isEmpty()


def test_a_page_that_shows_ten_items_at_one_moment_is_one_act(spark):
    """A person who looks at a page every other second, and a log that knows the day alone."""
    schema = "batch string, user_id string, item_id string, event_type string, timestamp timestamp"
    pages = [
        ("a", "reader", f"i{k}", "impression", START + dt.timedelta(seconds=5 * p))
        for p in range(12)
        for k in range(10)
    ]
    days = [("a", "daily", f"i{d}", "view", START + dt.timedelta(days=d)) for d in range(40)]
    bulk = [("a", "bulk", f"i{k % 8}", "view", START) for k in range(40)]
    assert find_bots(spark.createDataFrame(pages + days + bulk, schema), config_of()).isEmpty()


@pytest.fixture(scope="module")
def embedded(spark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedded")
    dirt = {"bots": 0.05}
    config = GeneratorConfig.model_validate({"users": 600, "items": 300, "days": 4, "events": 40_000, "dirt": dirt})
    counts = generate_log(spark, config, folder / "log", seed=5)
    return folder, counts


def test_the_bots_of_an_embedded_log_and_no_person(spark, embedded):
    folder, made = embedded
    types = {"impression": 0, "view": 1, "click": 1, "purchase": 3, "rating": 1}
    config = LogConfig.model_validate({"path": str(folder / "log" / "events"), "event_types": types})
    warehouse = Warehouse(folder / "warehouse")
    result = ingest(spark, warehouse, config, None)
    truth = spark.read.parquet(str(folder / "log" / "truth" / "users")).where("is_bot")
    bots = spark.read.parquet(*(warehouse.slot("bots", batch=b).current().data for b in result.events))
    events = spark.read.parquet(*(v.data for v in result.events.values()))
    wanted = {row.user_id for row in truth.collect()}
    assert len(wanted) == made["bot_users"] >= 2
    assert {row.user_id for row in bots.select("user_id").distinct().collect()} == wanted
    assert not wanted & {row.user_id for row in events.select("user_id").distinct().collect()}
    assert result.counts["bots"] == bots.count() == made["bots"]
    assert {row.rule for row in bots.select("rule").distinct().collect()} == {"regularity"}
    counts = result.counts
    assert counts["rows_in"] == made["lines"]
    assert counts["rows_in"] == counts["events"] + counts["duplicates"] + counts["quarantined"] + counts["bots"]
