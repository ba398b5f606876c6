"""The feeds of sequences and impressions against plain Python, and all three through the readers."""

from __future__ import annotations

import datetime as dt
import json
import random
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pyspark.sql import functions as F

from recsys_spark.config import Config
from recsys_spark.dataset.features.encoding import Encoding
from recsys_spark.dataset.feeds.impressions import label_columns, label_rows, part_events, write_impressions
from recsys_spark.dataset.feeds.pairs import write_pairs
from recsys_spark.dataset.feeds.sequences import sequence_rows, write_sequences
from recsys_spark.errors import DataError
from recsys_spark.feed.reader import Feed
from recsys_spark.warehouse import MANIFEST

INTERACTIONS = "user_id int, item_id int, split string, weight float, rating float, timestamp long, in_core boolean"
TYPES = {"impression": 0.0, "click": 1.0, "purchase": 3.0, "scroll": 0.0}
UNTIL = dt.date(2026, 1, 10)  # test; the 9th is valid, the 8th a gap, everything before it is train


def config_of(types: dict[str, float] = TYPES, **dataset: object) -> Config:
    dataset = {"history_length": 4, "feed_files": 3, "gap_days": 1, "label_hours": 3, **dataset}
    log = {
        "path": "t",
        "event_types": types,
        "columns": dict.fromkeys(("user_id", "item_id", "timestamp", "split"), "c"),
    }
    log["default_type"] = next(iter(types))
    return Config.model_validate({"name": "t", "root": "t", "log": log, "dataset": dataset, "train": {"ranks": 1}})


def finish(path: Path, manifest: dict) -> dict:
    (path / MANIFEST).write_text(json.dumps(manifest))
    return manifest


def rows_of(folder: Path) -> list[dict]:
    return pq.read_table(folder).to_pylist()


# Sequences --------------------------------------------------------------------------------------------


def plain_windows(n: int, length: int, stride: int) -> list[tuple[int, int]]:
    """First and last + 1 position of each window of n items, newest first."""
    windows = [(max(0, n - length), n)]
    while windows[-1][0] > 0:
        start = max(0, windows[-1][0] - stride)
        windows.append((start, start + length))
    return windows


@settings(max_examples=4, deadline=None, phases=[Phase.generate])
@given(st.integers(1, 6).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))), st.integers(0, 10**6))
def test_every_item_is_in_a_window_and_the_newest_window_ends_now(spark, shape, seed):
    length, stride = shape
    rng = random.Random(seed)
    users = {user: rng.sample(range(1, 50), user) for user in range(1, 18)}  # user u has u items
    rows = [(u, i, float(i) / 2, rng.randrange(8)) for u, items in users.items() for i in items]
    frame = spark.createDataFrame(rows, "user_id int, item_id int, weight float, timestamp long").repartition(3)
    expected = Counter()
    for user in users:
        history = sorted((time, item, weight) for u, item, weight, time in rows if u == user)
        for start, end in plain_windows(user, length, stride) if user > 1 else []:
            window = [(0, 0, 0.0)] * (length - (end - start)) + history[start:end]
            times, items, weights = zip(*window, strict=True)
            expected[user, items, weights, times, end - start] += 1
    found = sequence_rows(frame, length, stride).collect()
    assert len({(r.user_id, r._window) for r in found}) == len(found)
    assert (
        Counter((r.user_id, tuple(r["items"]), tuple(r.weights), tuple(r.times), r.length) for r in found) == expected
    )
    for user in range(2, 18):
        mine = [r for r in found if r.user_id == user]
        assert {i for r in mine for i in r["items"]} - {0} == set(users[user]), "an item is in no window"
        newest = max((time, item) for u, item, _, time in rows if u == user)
        assert sum((r.times[-1], r["items"][-1]) == newest for r in mine) == 1
        assert {r.length for r in mine} == {min(user, length)}


def test_windows_apart_are_refused():
    assert config_of(sequence_stride=4).dataset.sequence_stride == 4
    with pytest.raises(ValidationError, match=r"sequence_stride 5 is above dataset\.history_length 4"):
        config_of(sequence_stride=5)


def interactions_of(spark, rows: list[tuple[int, int, str, int, bool]]):
    full = [(user, item, split, 1.0, None, time, core) for user, item, split, time, core in rows]
    return spark.createDataFrame(full, INTERACTIONS)


@pytest.fixture(scope="module")
def interactions(spark):
    rng = random.Random(4)
    pairs = sorted({(rng.randrange(1, 12), rng.randrange(1, 40)) for _ in range(150)})
    rows = [(u, i, rng.choice(["train"] * 4 + ["valid"]), rng.randrange(50), rng.random() < 0.9) for u, i in pairs]
    return interactions_of(spark, rows).persist()


def test_sequences_are_the_core_of_the_training_part(spark, interactions, tmp_path):
    manifest = finish(tmp_path, write_sequences(spark, interactions, config_of(), tmp_path))
    assert manifest["schema"] == [
        ["user_id", "int32"], ["items", "list<int32>"], ["weights", "list<float>"], ["times", "list<int64>"],
        ["length", "int32"],
    ]  # fmt: skip
    core = [r for r in interactions.collect() if r.split == "train" and r.in_core]
    counts = Counter(r.user_id for r in core)
    covered = {(r["user_id"], i) for r in rows_of(tmp_path / "data") for i in r["items"] if i}
    assert covered == {(r.user_id, r.item_id) for r in core if counts[r.user_id] > 1}
    assert manifest["n_users"] == max(counts) + 1 and manifest["n_items"] == max(r.item_id for r in core) + 1
    assert manifest["rows"] == sum(-(-n // 4) for n in counts.values() if n > 1)


def test_no_sequence_is_one_line(spark, tmp_path):
    with pytest.raises(DataError, match=r"take sequences out of dataset\.feeds"):
        write_sequences(spark, interactions_of(spark, [(1, 2, "train", 3, True)]), config_of(), tmp_path)
    with pytest.raises(DataError, match=r"dataset\.k_core=5"):
        write_sequences(spark, interactions_of(spark, [(1, 2, "train", 3, False)]), config_of(), tmp_path)


# Impressions ------------------------------------------------------------------------------------------

EVENTS = (
    "user_id int, item_id int, event_type string, timestamp timestamp, date date, rating float, position int, "
    "session_id string, device string, country string, split string, attributes map<string,string>"
)


def event(user: int, item: int, kind: str, time: dt.datetime, rating: float | None = None, **more: object) -> tuple:
    row = {"position": None, "session_id": None, "device": "app", "country": None, "split": None, "attributes": None}
    return (user, item, kind, time.replace(tzinfo=dt.UTC), time.date(), rating, *{**row, **more}.values())


def draw_events(seed: int, types: dict[str, float] = TYPES, n: int = 400) -> list[tuple]:
    """Dense in time, so that most impressions have something after them, and equal times and rows occur."""
    rng = random.Random(seed)
    rows = []
    for _ in range(n):
        time = dt.datetime(2026, 1, 6) + dt.timedelta(minutes=30 * rng.randrange(5 * 48))
        kind = rng.choices(list(types), [4, *[1] * (len(types) - 1)])[0]
        rating = rng.choice([None, 1.0, 3.5, 4.0, 5.0]) if kind == "rating" else None
        rows.append(event(rng.randrange(1, 4), rng.randrange(1, 5), kind, time, rating, position=rng.choice([1, 2])))
    return rows + rows[:10]


def part_of(day: dt.date) -> str | None:
    return {10: "test", 9: "valid", 8: None}.get(day.day, "train")


def plain_labels(rows: list[tuple], hours: int) -> dict[str, Counter]:
    """Part -> (user, item, time, labels) of the impressions; each event labels the last impression before it."""
    parts: dict[str, Counter] = defaultdict(Counter)
    groups = defaultdict(list)
    for row in rows:
        if part_of(row[4]):
            groups[row[0], row[1], part_of(row[4])].append(row)
    for (user, item, part), group in groups.items():
        shown: list[dict] = []
        for row in sorted(group, key=lambda r: (r[3], r[2] != "impression")):
            if row[2] == "impression":
                shown.append({"time": row[3], "click": 0.0, "purchase": 0.0})
            elif row[2] != "scroll" and shown and row[3] - shown[-1]["time"] <= dt.timedelta(hours=hours):
                shown[-1][row[2]] = 1.0
        parts[part] += Counter((user, item, int(s["time"].timestamp()), s["click"], s["purchase"]) for s in shown)
    return parts


def labelled(folder: Path, *labels: str) -> Counter:
    names = ("user_id", "item_id", "timestamp", *labels)
    return Counter(tuple(row[name] for name in names) for row in rows_of(folder))


@pytest.fixture(scope="module")
def items(spark):
    rows = [(1, ["a"], 2.5), (2, ["b", "a"], 7.0), (3, None, 0.0)]
    return spark.createDataFrame(rows, "item_id int, categories array<string>, price float")


@pytest.fixture(scope="module")
def impressions(spark, items, interactions, tmp_path_factory) -> tuple[list[tuple], Path]:
    path, rows = tmp_path_factory.mktemp("impressions"), draw_events(1)
    events = spark.createDataFrame(rows, EVENTS).repartition(3)
    finish(path, write_impressions(spark, interactions, events, items, config_of(), UNTIL, path))
    return rows, path


def test_an_event_labels_the_latest_impression_of_its_part_and_no_other(impressions):
    rows, path = impressions
    expected = plain_labels(rows, hours=3)
    for part, folder in (("train", "data"), ("valid", "valid"), ("test", "test")):
        assert labelled(path / folder, "label_click", "label_purchase") == expected[part]
    every = {key[3:] for counts in expected.values() for key in counts}
    assert every == {(a, b) for a in (0.0, 1.0) for b in (0.0, 1.0)}, "every outcome is to occur"
    manifest = json.loads((path / MANIFEST).read_text())
    assert manifest["parts"] == {part: sum(expected[part].values()) for part in ("train", "valid", "test")}
    assert manifest["rows"] == manifest["parts"]["train"] and manifest["labels"] == ["label_click", "label_purchase"]
    assert manifest["rows_are"] == "impression" and manifest["n_users"] == 4 and manifest["n_items"] == 5
    assert manifest["row_groups"] == 4 and {f["row_groups"] for f in manifest["files"]} == {1}
    sizes = [f["rows"] for f in manifest["files"]]
    assert max(sizes) - min(sizes) <= 1


def test_a_label_is_within_its_hours_to_the_microsecond(spark):
    time, hour = dt.datetime(2026, 1, 2, 12), dt.timedelta(hours=1)
    late = dt.timedelta(microseconds=1)
    clicks = {1: time, 2: time + 3 * hour, 3: time + 3 * hour + late, 4: time - late}
    rows = [event(1, item, "impression", time) for item in clicks]
    rows += [event(1, item, "click", when) for item, when in clicks.items()]
    events = spark.createDataFrame(rows, EVENTS).withColumn("_part", F.lit("train"))
    found = label_rows(events, "impression", label_columns(TYPES), 3, 4.0).where("_row").collect()
    assert {r.item_id: r.label_click for r in found} == {1: 1.0, 2: 1.0, 3: 0.0, 4: 0.0}
    assert {r.label_purchase for r in found} == {0.0}


def test_what_is_held_out_is_in_no_label_and_no_feature_of_training(spark, items, interactions, impressions, tmp_path):
    """Without the valid and test days' events, the training rows are the same, to the bit and in the same places."""
    rows, path = impressions
    past = spark.createDataFrame([r for r in rows if part_of(r[4]) == "train"], EVENTS).repartition(2)
    spark.conf.set("spark.sql.shuffle.partitions", 3)
    manifest = write_impressions(spark, interactions, past, items, config_of(), UNTIL, tmp_path)
    spark.conf.set("spark.sql.shuffle.partitions", 2)
    before = json.loads((path / MANIFEST).read_text())
    assert manifest["parts"] == {"train": before["rows"], "valid": 0, "test": 0}
    for one, other in zip(before["files"], manifest["files"], strict=True):
        assert rows_of(path / "data" / one["file"]) == rows_of(tmp_path / "data" / other["file"])
    assert Encoding.load(path / "encoding.json") == Encoding.load(tmp_path / "encoding.json")
    assert pq.read_table(tmp_path / "test").schema.names == pq.read_table(path / "test").schema.names


def test_ids_are_within_the_sizes_that_the_manifest_names_and_training_numbers_are_normal(impressions):
    manifest = json.loads((impressions[1] / MANIFEST).read_text())
    train, test = (rows_of(impressions[1] / folder) for folder in ("data", "test"))
    for name, size in manifest["ids"].items():
        assert all(0 <= row[name] < size for row in train + test), name
    assert manifest["ids"]["device"] == 2 and manifest["ids"]["category"] == 3 and manifest["ids"]["country"] == 1
    for name in manifest["floats"]:
        values = torch.tensor([row[name] for row in train])
        if name == "item_price":  # 0 stands for the items without one
            values = values[values != 0]
        assert (values.mean().abs() < 1e-5 and (values.std(correction=0) - 1).abs() < 1e-4) or not values.any(), name


def test_a_log_without_impressions_gives_its_ratings_and_one_with_neither_says_so(spark, items, tmp_path):
    types = {"rating": 1.0, "view": 0.5}
    rows = draw_events(2, types)
    events = spark.createDataFrame(rows, EVENTS)
    pairs = {(user, item): ("test", "valid", "train")[min(item - 1, 2)] for user in range(1, 4) for item in range(1, 4)}
    split = interactions_of(spark, [(u, i, part, 0, True) for (u, i), part in pairs.items()])
    manifest = write_impressions(spark, split, events, items, config_of(types, split="leave_one_out"), UNTIL, tmp_path)
    assert manifest["rows_are"] == "rating" and manifest["labels"] == ["label_positive"]
    expected: dict[str, Counter] = defaultdict(Counter)
    for user, item, kind, time, _, rating, *_ in rows:
        if kind == "rating" and rating is not None:
            expected[pairs.get((user, item), "train")][user, item, int(time.timestamp()), float(rating >= 4)] += 1
    for part, folder in (("train", "data"), ("valid", "valid"), ("test", "test")):
        assert labelled(tmp_path / folder, "label_positive") == expected[part] != Counter()

    for types, says in (({"view": 1.0}, "neither 'impression' nor 'rating'"), (TYPES, "no impression in the training")):
        with pytest.raises(DataError) as error:
            views = events.where("event_type = 'view'")
            write_impressions(spark, split, views, items, config_of(types), UNTIL, tmp_path / "none")
        assert says in str(error.value) and "dataset.feeds" in str(error.value) and "\n" not in str(error.value)


def test_the_logs_own_split_says_the_part(spark, interactions):
    rows = [event(1, 1, "click", dt.datetime(2026, 1, 1), split=part) for part in ("train", "valid", "test")]
    events = part_events(spark.createDataFrame(rows, EVENTS), interactions, config_of(split="column"), UNTIL)
    assert [row._part for row in events.collect()] == ["train", "valid", "test"]


# Through the readers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", ["petastorm", "arrow"])
def test_every_kind_is_read_whole(spark, interactions, impressions, tmp_path, reader):
    config = config_of()
    for kind, write in (("pairs", write_pairs), ("sequences", write_sequences)):
        (tmp_path / kind).mkdir()
        finish(tmp_path / kind, write(spark, interactions, config, tmp_path / kind))
    torches = {"int32": torch.int32, "int64": torch.int64, "float": torch.float32}
    for path in (tmp_path / "pairs", tmp_path / "sequences", impressions[1]):
        manifest = json.loads((path / MANIFEST).read_text())
        columns = tuple(name for name, _ in manifest["schema"])
        seen: Counter = Counter()
        batches = list(Feed(path, columns, 1, 0, 1, 3, reader=reader).epoch(0))
        for batch in batches:
            for name, kind in manifest["schema"]:
                inner = kind.removeprefix("list<").removesuffix(">")
                assert batch[name].dtype == torches[inner], name
                assert batch[name].shape == ((1,) if inner == kind else (1, 4)), name
            seen[tuple(str(batch[name][0].tolist()) for name in columns)] += 1
        written = Counter(tuple(str(row[name]) for name in columns) for row in rows_of(path / "data"))
        assert seen == written and sum(written.values()) == manifest["rows"] == len(batches)
