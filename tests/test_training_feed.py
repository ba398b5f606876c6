"""The writer of feeds and the feed of pairs: its files, that it never looks ahead, that the readers read them."""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from recsys_spark.config import Config
from recsys_spark.dataset.feeds.pairs import write_pairs
from recsys_spark.dataset.feeds.writer import describe_files, file_count, write_rows
from recsys_spark.errors import DataError
from recsys_spark.feed.reader import Feed
from recsys_spark.warehouse import MANIFEST

LENGTH = 4


def config_of(seed: int = 7, train: dict | None = None, **dataset: object) -> Config:
    dataset = {"history_length": LENGTH, "feed_files": 3, "k_core": 2, **dataset}
    train = {"ranks": 1, **(train or {})}
    return Config.model_validate(
        {"name": "t", "root": "t", "seed": seed, "log": {"path": "t"}, "dataset": dataset, "train": train}
    )


CONFIG = config_of()
COLUMNS = ("user_id", "item_id", "weight", "history")
SCHEMA = "user_id int, item_id int, split string, weight float, rating float, timestamp long, in_core boolean"


def draw_interactions(seed: int) -> list[tuple]:
    """One row per user, item and part, with many equal times."""
    rng = random.Random(seed)
    pairs = {(rng.randrange(1, 21), rng.randrange(1, 31)) for _ in range(260)}
    rows = []
    for user, item in sorted(pairs):
        split = rng.choices(["train", "valid", "test"], [8, 1, 1])[0]
        in_core = split == "train" and rng.random() < 0.9
        rows.append((user, item, split, float(rng.randrange(1, 5)), None, rng.randrange(12), in_core))
    return rows


def plain_feed(rows: list[tuple]) -> list[tuple]:
    """(user, item, weight, history): the last items before, by time and then item id, padded on the left."""
    kept = sorted((row for row in rows if row[6]), key=lambda row: (row[0], row[5], row[1]))
    feed = []
    for user, item, _, weight, _, time, _ in kept:
        past = [row[1] for row in kept if row[0] == user and (row[5], row[1]) < (time, item)][-LENGTH:]
        feed.append((user, item, weight, (0,) * (LENGTH - len(past)) + tuple(past)))
    return feed


def build(spark, rows: list[tuple], path: Path, partitions: int = 2, config: Config = CONFIG) -> Path:
    """Write a feed with its manifest, as a version of the table has it."""
    interactions = spark.createDataFrame(rows, SCHEMA).repartition(partitions)
    manifest = write_pairs(spark, interactions, config, path)
    (path / MANIFEST).write_text(json.dumps(manifest))
    return path


def contents(path: Path) -> list[list[tuple]]:
    """The rows of every file, in order."""
    files = json.loads((path / MANIFEST).read_text())["files"]
    tables = (pq.read_table(path / "data" / file["file"]).to_pylist() for file in files)
    return [[(r["user_id"], r["item_id"], r["weight"], tuple(r["history"])) for r in rows] for rows in tables]


@pytest.fixture(scope="module")
def rows() -> list[tuple]:
    return draw_interactions(1)


@pytest.fixture(scope="module")
def feed(spark, rows, tmp_path_factory) -> Path:
    return build(spark, rows, tmp_path_factory.mktemp("feed"))


def test_rows_are_the_core_of_the_training_part_with_what_came_before(feed, rows):
    written = [row for file in contents(feed) for row in file]
    expected = plain_feed(rows)
    assert sorted(written) == sorted(expected)
    assert {sum(i > 0 for i in row[3]) for row in expected} == set(range(LENGTH + 1)), "every filling is to occur"
    assert written != sorted(written), "they are to be shuffled"

    manifest = json.loads((feed / MANIFEST).read_text())
    assert manifest["rows"] == len(expected) and manifest["history_length"] == LENGTH
    for name, side in (("users", 0), ("items", 1)):
        counts = pq.read_table(feed / name).to_pylist()
        keys = [row[side] for row in expected]
        assert {r[f"{name[:-1]}_id"]: r["count"] for r in counts} == {key: keys.count(key) for key in keys}
        assert manifest[f"n_{name}"] == max(keys) + 1


def test_files_hold_one_row_group_no_null_and_the_types_of_the_contract(feed):
    manifest = json.loads((feed / MANIFEST).read_text())
    assert len(manifest["files"]) == manifest["row_groups"] == 4, "four for the one reader thread"
    assert {file["rows"] for file in manifest["files"]} <= {manifest["rows"] // 4, manifest["rows"] // 4 + 1}
    assert manifest["schema"] == [
        ["user_id", "int32"], ["item_id", "int32"], ["weight", "float"], ["history", "list<int32>"],
    ]  # fmt: skip
    for file in manifest["files"]:
        opened = pq.ParquetFile(feed / "data" / file["file"])
        assert opened.metadata.num_row_groups == 1 and opened.metadata.num_rows == file["rows"]
        table = opened.read()
        assert [column.null_count for column in table.columns] == [0] * 4
        assert set(table["history"].combine_chunks().value_lengths().to_pylist()) == {LENGTH}
        assert table["history"].combine_chunks().flatten().null_count == 0


def test_what_happens_later_changes_nothing_before(spark, feed, rows, tmp_path):
    """A row planted in the future is in no history; only rows of later times may see it."""
    first = min(r[0] for r in rows if r[6])
    planted = [
        (first, 31, "train", 1.0, None, 10_000, True),  # later than everything
        (first, 32, "valid", 9.0, None, 0, False),  # earlier, but held out
        (first, 33, "test", 9.0, None, 0, False),
        (first, 34, "train", 9.0, None, 0, False),  # earlier, but not in the core
    ]
    seen = sorted(row for file in contents(build(spark, rows + planted, tmp_path)) for row in file)
    before = sorted(row for file in contents(feed) for row in file)
    (added,) = set(seen) - set(before)
    assert added[:2] == (first, 31) and set(before) < set(seen)
    assert not {31, 32, 33, 34} & {item for row in seen for item in row[3]}


def test_the_same_rows_are_the_same_files_however_spark_ran(spark, feed, rows, tmp_path):
    with shuffle_partitions(spark, 3):
        again = build(spark, rows[::-1], tmp_path / "again", partitions=5)
    assert contents(again) == contents(feed)
    other = build(spark, rows, tmp_path / "other", config=config_of(seed=8))
    assert contents(other) != contents(feed)
    assert sorted(r for f in contents(other) for r in f) == sorted(r for f in contents(feed) for r in f)


def test_no_row_left_is_one_line(spark, rows, tmp_path):
    with pytest.raises(DataError) as error:
        build(spark, [(*row[:6], False) for row in rows], tmp_path)
    assert "dataset.k_core=2" in str(error.value) and "\n" not in str(error.value)


FAULTS = ["row groups", "type", "schemas", "rows", "files", "null", "length"]


@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_a_feed_against_the_contract_is_not_described(tmp_path, fault):
    table = pa.table({
        "user_id": pa.array(range(8), pa.int32()),
        "weight": pa.array([1.0] * 7 + [None if fault == "null" else 1.0], pa.float32()),
        "history": pa.array([[0, 1]] * 7 + [[0] if fault == "length" else [0, 1]], pa.list_(pa.int32())),
    })  # fmt: skip
    other = table.rename_columns(["user_id", "w", "history"]) if fault == "schemas" else table
    if fault == "type":
        other = table = table.append_column("name", pa.array(["x"] * 8))
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=4 if fault == "row groups" else 8)
    pq.write_table(other, tmp_path / "b.parquet")
    expected = (15 if fault == "rows" else 16, 3 if fault == "files" else 2, 2)
    if fault is None:
        assert describe_files(tmp_path, *expected)["rows"] == 16
    else:
        with pytest.raises(AssertionError):
            describe_files(tmp_path, *expected)


@contextlib.contextmanager
def shuffle_partitions(spark, number: int):
    key = "spark.sql.shuffle.partitions"
    before = spark.conf.get(key)
    spark.conf.set(key, number)
    yield
    spark.conf.set(key, before)


@settings(max_examples=4, deadline=None, phases=[Phase.generate])
@given(
    st.integers(1, 3000), st.integers(1, 3), st.integers(1, 2), st.integers(1, 40), st.integers(20, 1000),
)  # fmt: skip
def test_files_are_as_many_as_readers_need_and_of_one_size(spark, tmp_path_factory, n, ranks, workers, least, most):
    """Every row is written once; the number of files follows the rule; sizes differ by no more than a row."""
    path = tmp_path_factory.mktemp("files")
    config = config_of(train={"ranks": ranks, "feed_workers": workers}, feed_files=least, feed_rows_per_file=most)
    rows = spark.range(n).selectExpr("int(id) as user_id", "float(id / 2) as weight", "id * 3 as _number")
    manifest = write_rows(spark, rows, n, path, ["_number"], config)
    sizes = [file["rows"] for file in manifest["files"]]
    assert len(sizes) == min(n, max(4 * ranks * workers, least, -(-n // most)))
    assert sum(sizes) == n and max(sizes) - min(sizes) <= 1
    assert manifest["schema"] == [["user_id", "int32"], ["weight", "float"]], "hidden columns stay hidden"
    assert sorted(pq.read_table(path / "data")["user_id"].to_pylist()) == list(range(n))


def test_a_large_feed_is_dealt_by_buckets_and_still_even(spark, tmp_path):
    """Beyond 2^18 rows a bucket holds several: sizes are within 20 % all the same."""
    n = 300_000
    config = config_of(train={"ranks": 4}, feed_files=1)
    rows = spark.range(n).selectExpr("int(id) as user_id")
    manifest = write_rows(spark, rows, n, tmp_path, ["user_id"], config)
    sizes = [file["rows"] for file in manifest["files"]]
    assert len(sizes) == 16 and max(sizes) < 1.01 * min(sizes)
    first = pq.read_table(tmp_path / "data" / manifest["files"][0]["file"])["user_id"].to_numpy()
    assert abs(first.mean() / n - 0.5) < 0.05, "rows are shuffled over all files"


def test_no_file_is_larger_than_a_task_can_hold(spark):
    lists = ("array(0) as items", "array(0L) as times", "1 as _hidden")
    rows = spark.range(1).selectExpr("int(id) as user_id", *lists)
    wide = config_of(history_length=1000, feed_files=1)
    assert file_count(rows, 10**6, wide) == -(-(10**6) // ((128 << 20) // (4 + 4000 + 8000)))
    assert file_count(rows, 3, wide) == 3


# Through the readers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", ["petastorm", "arrow"])
def test_what_spark_wrote_comes_back_whole(feed, rows, reader):
    seen = []
    for rank in range(3):
        for batch in Feed(feed, COLUMNS, 16, rank, 3, 3, reader=reader).epoch(0):
            assert [batch[c].dtype for c in COLUMNS] == [torch.int32, torch.int32, torch.float32, torch.int32]
            user, item, weight, history = (batch[c].tolist() for c in COLUMNS)
            assert all(len(past) == LENGTH for past in history)
            seen += zip(user, item, weight, map(tuple, history), strict=True)
    assert sorted(seen) == sorted(plain_feed(rows))
