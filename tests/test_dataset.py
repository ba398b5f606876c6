"""Splits, k-core and dictionaries alone, then a whole data set against the same rules in plain Python."""

from __future__ import annotations

import datetime as dt
import math
import random
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F

from recsys_spark.config import Config
from recsys_spark.dataset import build
from recsys_spark.dataset import events as reading
from recsys_spark.dataset.build import Dataset, build_dataset, current_dataset
from recsys_spark.dataset.kcore import k_core
from recsys_spark.dataset.splits import check_column, split_leave_one_out, time_part
from recsys_spark.errors import DataError
from recsys_spark.pipeline.reconciliation import rows_table
from recsys_spark.warehouse import Version, Warehouse

PARTS = ("train", "valid", "test")
TYPES = {"impression": 0.0, "view": 1.0, "purchase": 3.0, "rating": 0.5}


def test_split_by_time_begins_its_days_at_midnight(spark):
    rows = [  # the run date is the 10th, which is the only test day; the 8th and 9th are valid
        ("2026-01-01T12:00:00", "train"),
        ("2026-01-07T23:59:59.999999", "train"),
        ("2026-01-08T00:00:00", "valid"),
        ("2026-01-09T23:59:59.999999", "valid"),
        ("2026-01-10T00:00:00", "test"),
        ("2026-01-10T23:59:59.999999", "test"),
    ]
    events = spark.createDataFrame(rows, "time string, expected string")
    events = events.withColumn("date", F.to_date(F.col("time").cast("timestamp")))

    def parts(**days: int) -> list[str]:
        part = time_part(F.col("date"), dt.date(2026, 1, 10), **days)
        return [r.part for r in events.select(part.alias("part")).collect()]

    assert parts(valid_days=2, test_days=1) == [part for _, part in rows]
    assert parts(valid_days=1, test_days=3) == ["train", "valid", "test", "test", "test", "test"]
    assert parts(valid_days=1, test_days=1, gap_days=2) == ["train", "gap", "gap", "valid", "test", "test"]
    assert parts(valid_days=2, test_days=1, gap_days=7) == ["gap", "gap", "valid", "valid", "test", "test"]


def test_split_leave_one_out_takes_the_last_two_of_three_or_more(spark):
    rows = [
        (1, 10, 100, "train"), (1, 11, 300, "test"), (1, 12, 200, "valid"),
        (2, 10, 5, "train"), (2, 11, 6, "train"),  # too few to measure on
        (3, 10, 7, "train"),
        (4, 12, 50, "test"), (4, 9, 50, "train"), (4, 11, 50, "valid"), (4, 8, 50, "train"),  # ties: by item id
        (5, 30, 1, "train"), (5, 20, 2, "train"), (5, 10, 3, "valid"), (5, 5, 4, "test"),
    ]  # fmt: skip
    pairs = spark.createDataFrame([row[:3] for row in rows], "user_id int, item_id int, timestamp long")
    split = split_leave_one_out(pairs.repartition(3))
    assert split.columns == ["user_id", "item_id", "timestamp", "split"]
    assert sorted(tuple(row) for row in split.collect()) == sorted(rows)


def test_split_by_column_takes_the_logs_word_or_names_what_it_says_instead(spark):
    rows = spark.createDataFrame([("train",), ("valid",), ("test",)], "split string")
    check_column(rows)
    for wrong in ("Train", None, ""):
        with pytest.raises(DataError) as error:
            check_column(rows.union(spark.createDataFrame([(wrong,)], "split string")))
        assert repr(wrong) in str(error.value) and "\n" not in str(error.value)


def plain_core(pairs: set[tuple[int, int]], k: int) -> set[tuple[int, int]]:
    """Drop the rows of one rare user or item at a time, which is slow and cannot be wrong."""
    pairs = set(pairs)
    while True:
        for side in (0, 1):
            counts = Counter(pair[side] for pair in pairs)
            rare = next((key for key, n in counts.items() if n < k), None)
            if rare is not None:
                pairs = {pair for pair in pairs if pair[side] != rare}
                break
        else:
            return pairs


def core_rows(rows, k: int, scratch: Path) -> list[tuple[int, int]]:
    scratch.mkdir()
    core = k_core(rows, k, scratch)
    kept = rows.join(core.users, "user_id", "left_semi").join(core.items, "item_id", "left_semi")
    return [(row.user_id, row.item_id) for row in kept.collect()]


def test_k_core_is_the_fixed_point_on_random_graphs(spark, tmp_path):
    """The core of graphs side by side is their cores side by side, so one call judges them all."""
    rng = random.Random(5)
    pairs = set()
    for graph in range(60):
        users, items, edges = rng.randint(1, 8), rng.randint(1, 8), rng.randint(1, 30)
        first = 100 * graph + 1
        pairs |= {(first + rng.randrange(users), first + rng.randrange(items)) for _ in range(edges)}
    # a path unravels from its ends, a round at a time: plans must not grow with the rounds
    path = {(10_000 + (i + 1) // 2, 10_000 + i // 2) for i in range(14)}
    rows = spark.createDataFrame(sorted(pairs | path), "user_id int, item_id int")
    sizes = set()
    for k in (2, 3):
        kept = core_rows(rows, k, tmp_path / str(k))
        assert len(kept) == len(set(kept)) and set(kept) == plain_core(pairs, k) | plain_core(path, k)
        sizes.add(len(kept))
    assert not plain_core(path, 2) and len({*sizes, 0, len(pairs)}) == 4, "the draw is to hold partial cores"
    for k in (0, 1):
        assert len(core_rows(rows, k, tmp_path / str(k))) == len(pairs | path)
    assert core_rows(rows, 9, tmp_path / "9") == []


def dictionary(version: Version) -> dict[str, int]:
    return {r["raw_id"]: r["id"] for r in pq.read_table(version.data).to_pylist()}


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=40), st.integers(2, 4))
def test_k_core_of_any_graph(spark, tmp_path_factory, edges, k):
    rows = spark.createDataFrame(sorted(edges), "user_id int, item_id int")
    assert set(core_rows(rows, k, tmp_path_factory.mktemp("core") / "scratch")) == plain_core(edges, k)


# One data set from end to end -------------------------------------------------------------------------

_EVENTS = pa.schema([
    ("event_id", pa.string()), ("user_id", pa.string()), ("item_id", pa.string()), ("event_type", pa.string()),
    ("timestamp", pa.timestamp("us", tz="UTC")), ("date", pa.date32()), ("rating", pa.float32()),
    ("position", pa.int32()), ("session_id", pa.string()), ("device", pa.string()), ("country", pa.string()),
    ("split", pa.string()), ("copies", pa.int32()),
])  # fmt: skip
UNTIL = dt.date(2026, 1, 6)


def event(number: object, user: str, item: str, kind: str, time: dt.datetime, rating: float | None = None) -> dict:
    return {"event_id": f"e{number}", "user_id": user, "item_id": item, "event_type": kind, "timestamp": time,
            "date": time.date(), "rating": rating, "copies": 1}  # fmt: skip


def draw_events(seed: int) -> dict[str, list[dict]]:
    """Events of seven days by batch: ties in time, late copies that differ, and users who only ever look."""
    rng = random.Random(seed)
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    batches = defaultdict(list)
    for number in range(500):
        time = start + dt.timedelta(hours=6 * rng.randrange(28))
        user, item = f"u{rng.randrange(14):02}", f"i{min(rng.randrange(20), rng.randrange(20)):02}"
        kind = rng.choice(list(TYPES)) if user > "u02" else "impression"
        rating = rng.choice([None, 1.0, 2.5, 5.0]) if kind == "rating" else None
        row = event(number, user, item, kind, time, rating)
        batches[str(time.date())].append(row)
        if rng.random() < 0.2:  # delivered a day later once more, and not the same
            copy = {**row, "event_type": "purchase" if TYPES[kind] else kind, "rating": 4.0}
            batches[str(time.date() + dt.timedelta(days=1))].append(copy)
    return dict(sorted(batches.items()))


def publish(warehouse: Warehouse, batches: dict[str, list[dict]]) -> dict[str, Version]:
    """Make events the live version of their batches, as `ingest` does."""

    def write(path: Path, rows: list[dict]) -> dict:
        (path / "data").mkdir()
        pq.write_table(pa.Table.from_pylist(rows, schema=_EVENTS), path / "data" / "part-0.parquet")
        return {}

    return {
        batch: warehouse.slot("events", batch=batch).materialize(f"{batch}-v1", lambda p, r=rows: write(p, r))[0]
        for batch, rows in batches.items()
    }


def catalogue(warehouse: Warehouse) -> Version:
    """Make half of the items known to the catalogue."""
    schema = pa.schema(
        [(n, pa.string()) for n in ("item_id", "title", "description")]
        + [("categories", pa.list_(pa.string())), ("price", pa.float32())]
    )
    rows = [{"item_id": f"i{n:02}", "categories": ["even", "all"] if n % 4 else []} for n in range(0, 20, 2)]

    def write(path: Path) -> dict:
        (path / "data").mkdir()
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path / "data" / "part-0.parquet")
        return {}

    return warehouse.slot("items").materialize("v1", write)[0]


def config_of(**dataset: object) -> Config:
    columns = {c: c for c in ("user_id", "item_id", "timestamp", "event_type", "split")}
    log = {"path": "t", "event_types": TYPES, "columns": columns}
    settings = {"k_core": 3, "history_length": 4, "feed_files": 3, **dataset}
    return Config.model_validate({"name": "t", "root": "t", "log": log, "dataset": settings})


def plain_events(batches: dict[str, list[dict]], until: dt.date) -> list[dict]:
    first: dict[str, dict] = {}
    for batch in sorted(batches):
        for row in batches[batch]:
            first.setdefault(row["event_id"], row)
    return [row for row in first.values() if row["date"] <= until]


def plain_interactions(events: list[dict], users: dict, items: dict, until: dt.date, k: int) -> dict[tuple, tuple]:
    """(user, item, split) -> (weight, rating, timestamp, in_core, cold user, cold item), one valid and test day."""
    groups = defaultdict(list)
    for e in events:
        if TYPES[e["event_type"]] > 0:
            part = PARTS[max(0, 2 - (until - e["date"]).days)]
            groups[users[e["user_id"]], items[e["item_id"]], part].append(e)
    core = plain_core({key[:2] for key in groups if key[2] == "train"}, k)
    rows = {}
    for key, found in groups.items():
        rated = [(e["timestamp"], e["rating"]) for e in found if e["rating"] is not None]
        weight, last = sum(TYPES[e["event_type"]] for e in found), max(e["timestamp"] for e in found)
        in_core = key[2] == "train" and key[:2] in core
        cold = key[0] not in {u for u, _ in core}, key[1] not in {i for _, i in core}
        rows[key] = (weight, max(rated)[1] if rated else None, int(last.timestamp()), in_core, *cold)
    return rows


def plain_histories(rows: dict[tuple, tuple], last_days: dict[int, dt.date]) -> dict[tuple, tuple]:
    """(known, user) -> (items, weights, ratings, held_out, held_out_ratings, last_day); NaN as None."""
    histories = {}
    for moment, known in enumerate(PARTS):
        users = last_days if known == "test" else {u for u, _, part in rows if PARTS.index(part) <= moment + 1}
        for user in users:
            past = defaultdict(list)
            for (u, item, part), row in rows.items():
                if u == user and PARTS.index(part) <= moment:
                    past[item].append(row)
            order = sorted(past, key=lambda item: (max(r[2] for r in past[item]), item))
            ratings = [max(((r[2], r[1]) for r in past[i] if r[1] is not None), default=(0, None))[1] for i in order]
            fresh = sorted(
                (item, row[1])
                for (u, item, part), row in rows.items()
                if u == user and known != "test" and part == PARTS[moment + 1] and item not in past
            )
            if order or fresh or known == "test":
                weights = [sum(r[0] for r in past[i]) for i in order]
                day = last_days[user] if known == "test" else None
                held_out, truths = [f[0] for f in fresh], [f[1] for f in fresh]
                histories[known, user] = (order, weights, ratings, held_out, truths, day)
    return histories


def no_nan(values: list[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]


def read_histories(spark, dataset: Dataset) -> dict[tuple, tuple]:
    rows = spark.read.parquet(dataset.histories.data).collect()
    assert len({(r.known, r.user_id) for r in rows}) == len(rows)
    histories = {}
    for r in rows:
        ratings, truths = no_nan(r.ratings), no_nan(r.held_out_ratings)
        histories[r.known, r.user_id] = (r["items"], r.weights, ratings, r.held_out, truths, r.last_day)
    return histories


def read_interactions(spark, dataset: Dataset) -> dict[tuple, tuple]:
    rows = spark.read.parquet(dataset.interactions.data).collect()
    assert len({(r.user_id, r.item_id, r.split) for r in rows}) == len(rows)
    columns = ("weight", "rating", "timestamp", "in_core", "cold_user", "cold_item")
    return {(r.user_id, r.item_id, r.split): tuple(r[c] for c in columns) for r in rows}


def check_against_plain_python(spark, warehouse: Warehouse, dataset: Dataset, events: list[dict], until: dt.date):
    users, items = (dictionary(warehouse.slot(t).current()) for t in ("user_ids", "item_ids"))
    expected = plain_interactions(events, users, items, until, k=3)
    assert read_interactions(spark, dataset) == expected
    last_days: dict[int, dt.date] = {}
    for e in events:
        user = users[e["user_id"]]
        last_days[user] = max(e["date"], last_days.get(user, e["date"]))
    histories = plain_histories(expected, last_days)
    assert read_histories(spark, dataset) == histories
    parts = Counter(part for *_, part in expected)
    assert dataset.interactions.manifest["parts"] == dict(parts)
    held = Counter(known for (known, _), row in histories.items() if row[3])
    assert dataset.histories.manifest["users_with_held_out"] == {"valid": held["train"], "test": held["valid"]}
    assert dataset.feed.manifest["rows"] == sum(row[3] for row in expected.values())
    return expected, histories


def test_two_nights_against_plain_python(spark, tmp_path):
    batches, warehouse = draw_events(3), Warehouse(tmp_path)
    assert len(batches) == 8 and any(e["date"] > UNTIL for rows in batches.values() for e in rows)
    batches["2026-01-07"].append(
        event("new", "a-new-user", "a-new-item", "view", dt.datetime(2026, 1, 7, tzinfo=dt.UTC))
    )
    versions = publish(warehouse, batches)

    tonight = {b: versions[b] for b in versions if b <= str(UNTIL)}
    dataset = build_dataset(spark, warehouse, config_of(), UNTIL, tonight, catalogue(warehouse))
    events = plain_events({b: batches[b] for b in tonight}, UNTIL)
    rows, histories = check_against_plain_python(spark, warehouse, dataset, events, UNTIL)
    ids = {table: dictionary(warehouse.slot(table).current()) for table in ("user_ids", "item_ids")}
    assert set(ids["user_ids"]) == {e["user_id"] for e in events}
    for user in ("u00", "u01", "u02"):  # never did more than look: cold, but to be served
        seen = {known: row for (known, u), row in histories.items() if u == ids["user_ids"][user]}
        assert list(seen) == ["test"] and seen["test"][:5] == ([], [], [], [], [])
    assert {row[3] for (_, _, part), row in rows.items() if part == "train"} == {True, False}
    assert any(len(row[0]) > 1 and row[3] for row in histories.values())

    assert (
        build_dataset(spark, warehouse, config_of(), UNTIL, tonight, catalogue(warehouse))
        == dataset
        == current_dataset(warehouse, UNTIL)
    )

    # The next night sees more events and more keys; ids that were given stay.
    tomorrow = UNTIL + dt.timedelta(days=1)
    after = build_dataset(spark, warehouse, config_of(), tomorrow, versions, catalogue(warehouse))
    check_against_plain_python(spark, warehouse, after, plain_events(batches, tomorrow), tomorrow)
    for table, before in ids.items():
        now = dictionary(warehouse.slot(table).current())
        assert before.items() <= now.items() and len(now) == len(before) + 1
    assert current_dataset(warehouse, UNTIL) == dataset, "a night does not touch another's"


@pytest.mark.parametrize(
    "split", ["time", *(pytest.param(s, marks=pytest.mark.slow) for s in ("leave_one_out", "column", "random"))]
)
def test_every_split_through_every_feed_with_every_row_accounted_for(spark, tmp_path, split, capsys):
    batches, warehouse = draw_events(8), Warehouse(tmp_path)
    for rows in batches.values():
        for row in rows:
            row["split"] = PARTS[min(2, max(0, 2 - (UNTIL - row["date"]).days))]
    versions = {b: v for b, v in publish(warehouse, batches).items() if b <= str(UNTIL)}
    for batch, version in versions.items():
        kept = len(batches[batch])
        version.manifest["counts"] = {"rows_in": kept + 3, "events": kept, "duplicates": 1, "bots": 2}
    feeds = ["pairs", "sequences", "impressions"]
    config = config_of(split=split, k_core=2, feeds=feeds, gap_days=0 if split != "time" else 1, sequence_stride=2)
    made = build_dataset(spark, warehouse, config, UNTIL, versions, catalogue(warehouse))
    assert list(made.feeds) == feeds and current_dataset(warehouse, UNTIL).feeds == made.feeds
    assert ("models train on the future" in capsys.readouterr().err) == (split == "random")

    events = plain_events({b: batches[b] for b in versions}, UNTIL)
    weighed = [e for e in events if TYPES[e["event_type"]] > 0]
    table = rows_table(versions, made)
    rows = dict(zip(table["what"], table["rows"], strict=True))
    read = sum(e["date"] <= UNTIL for b in versions for e in batches[b])
    assert rows["events up to the run date"] == read and rows["+ summed up into interactions"] == len(weighed)
    parts = spark.read.parquet(made.interactions.data).groupBy("split").count().collect()
    assert {r.split: r["count"] for r in parts} == {p: n for p, n in made.interactions.manifest["parts"].items() if n}
    assert rows["pairs"] == rows["train part, in the core"] > 0 and rows["sequences"] > 0
    shown = [e for e in events if e["event_type"] == "impression"]
    assert sum(made.feeds["impressions"].manifest["parts"].values()) == len(shown) - (split == "time") * sum(
        (UNTIL - e["date"]).days == 2 for e in shown
    )
    with pytest.raises(AssertionError, match="are not the sum"):
        next(iter(versions.values())).manifest["counts"]["rows_in"] += 1
        rows_table(versions, made)


@pytest.mark.parametrize("days", [1, 3])
def test_an_event_that_gets_lost_on_the_way_stops_the_build(spark, tmp_path, monkeypatch, days):
    batches, warehouse = draw_events(8), Warehouse(tmp_path)
    versions = publish(warehouse, {b: batches[b] for b in sorted(batches)[:days]})
    until = dt.date.fromisoformat(max(versions))
    monkeypatch.setattr(build, "number", lambda *args: reading.number(*args).where("user_id > 1"))
    with pytest.raises(AssertionError, match=r"made of \d+ events with a weight, the log has \d+"):
        build_dataset(spark, warehouse, config_of(k_core=1, split="random"), until, versions, catalogue(warehouse))
    assert warehouse.slot("interactions", date=str(until)).current() is None


def test_nothing_to_train_on_is_one_line_and_publishes_nothing(spark, tmp_path):
    batches, warehouse = draw_events(3), Warehouse(tmp_path)
    versions = publish(warehouse, {b: batches[b] for b in ("2026-01-01", "2026-01-02")})

    def refused(until: dt.date, **dataset: object) -> str:
        with pytest.raises(DataError) as error:
            build_dataset(spark, warehouse, config_of(**dataset), until, versions, catalogue(warehouse))
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "no event up to 2025-12-31" in refused(dt.date(2025, 12, 31))
    assert "nothing to train on before 2026-01-01" in refused(dt.date(2026, 1, 1))
    assert "split column says None" in refused(dt.date(2026, 1, 9), split="column")
    assert "dataset.k_core=50" in refused(dt.date(2026, 1, 9), k_core=50)
    assert warehouse.keys("feeds/pairs", "date") == [], "nothing that a model could learn from"
    with pytest.raises(DataError, match=r"jobs/build_dataset\.py --date 2026-01-09"):
        current_dataset(warehouse, dt.date(2026, 1, 9))
