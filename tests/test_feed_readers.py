"""The contract of feeds, for both readers: every row once, in as many steps, in a seeded order, in bounded memory."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from petastorm.workers_pool.thread_pool import ThreadPool
from petastorm.workers_pool.ventilator import ConcurrentVentilator

from recsys_spark.errors import ConfigError, DataError
from recsys_spark.feed import arrow, deal
from recsys_spark.feed import petastorm as through_petastorm
from recsys_spark.feed import reader as shared
from recsys_spark.feed.prefetch import interleaved
from recsys_spark.feed.reader import Batch, Feed
from recsys_spark.warehouse import MANIFEST

READERS = {"petastorm": through_petastorm, "arrow": arrow}
COLUMNS = ("user_id", "weight", "time", "items")
LENGTH = 3


@pytest.fixture(params=READERS)
def reader(request) -> str:
    return request.param


def table_of(ids: np.ndarray, length: int = LENGTH) -> pa.Table:
    """Rows whose every value follows from their id."""
    items = (ids[:, None] * length + np.arange(length)).astype(np.int32)
    return pa.table({
        "user_id": ids.astype(np.int32),
        "weight": (ids / 2).astype(np.float32),
        "time": ids * 10**10,
        "items": pa.array(list(items), pa.list_(pa.int32())),
    })  # fmt: skip


def write_feed(folder: Path, sizes: list[int]) -> Path:
    """Write a feed of files with so many rows, ids from 1."""
    path = folder / "date=2026-01-01"  # names hold a =, as in the warehouse
    (path / "data").mkdir(parents=True)
    files, first = [], 1
    for number, rows in enumerate(sizes):
        name = f"part-{number:05}.parquet"
        pq.write_table(table_of(np.arange(first, first + rows)), path / "data" / name)
        files.append({"file": name, "rows": rows, "row_groups": 1})
        first += rows
    schema = [["user_id", "int32"], ["weight", "float"], ["time", "int64"], ["items", "list<int32>"]]
    manifest = {"rows": sum(sizes), "row_groups": len(files), "files": files, "schema": schema}
    (path / MANIFEST).write_text(json.dumps(manifest))
    return path


def feed_of(path: Path, reader: str, batch_size: int = 4, rank: int = 0, size: int = 1, **more) -> Feed:
    return Feed(**{"path": path, "columns": COLUMNS, "batch_size": batch_size, "rank": rank, "size": size, "seed": 3,
                   "reader": reader, **more})  # fmt: skip


def users(batches: list[Batch]) -> list[int]:
    return [user for batch in batches for user in batch["user_id"].tolist()]


def feed_threads() -> set[str]:
    """Names of the threads that can be a feed's: ours, or Petastorm's workers and the one that hands them work."""

    def is_feeds(thread: threading.Thread) -> bool:
        petastorms = type(thread).__module__.startswith("petastorm") or "_ventilate" in thread.name
        return thread.name == "feed" or petastorms

    return {thread.name for thread in threading.enumerate() if is_feeds(thread)}


@pytest.fixture
def no_thread_left():
    before = set(threading.enumerate())
    assert not feed_threads()
    yield
    left = [t for t in threading.enumerate() if t not in before and not t.name.startswith("ThreadPoolExecutor")]
    assert not left


@pytest.fixture(scope="module")
def even(tmp_path_factory) -> Path:
    """Six files of eight rows."""
    return write_feed(tmp_path_factory.mktemp("even"), [8] * 6)


# Every row once, in as many steps -----------------------------------------------------------------------


@settings(max_examples=60, deadline=None, phases=[Phase.generate, Phase.shrink])
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 4), st.integers(1, 8), st.integers(1, 3),
    st.integers(0, 5), st.sampled_from(sorted(READERS)),
)  # fmt: skip
def test_every_row_is_read_once_over_all_ranks(tmp_path_factory, sizes, ranks, batch_size, workers, epoch, reader):
    """However uneven the files: as many batches on each rank, alike but for a row, and no row lost or read twice."""
    assume(ranks <= len(sizes) and (batch_size > 1 or sum(sizes) % ranks == 0))
    path = write_feed(tmp_path_factory.mktemp("feed"), sizes)
    feeds = [feed_of(path, reader, batch_size, rank, ranks, workers=workers) for rank in range(ranks)]
    read = [list(feed.epoch(epoch)) for feed in feeds]
    assert {len(batches) for batches in read} == {-(-sum(sizes) // (batch_size * ranks))} == {f.steps for f in feeds}
    rows = [len(batch["user_id"]) for batches in read for batch in batches]
    assert min(rows) >= 1 and max(rows) <= batch_size and max(rows) - min(rows) <= 1
    assert sorted(users(list(itertools.chain(*read)))) == list(range(1, sum(sizes) + 1))
    for batch in itertools.chain(*read):
        assert tuple(batch) == COLUMNS
        assert [batch[c].dtype for c in COLUMNS] == [torch.int32, torch.float32, torch.int64, torch.int32]
        expected = table_of(batch["user_id"].numpy().astype(np.int64))
        assert batch["items"].tolist() == expected["items"].to_pylist()
        assert batch["weight"].tolist() == expected["weight"].to_pylist()
        assert batch["time"].tolist() == expected["time"].to_pylist()


@given(
    st.lists(st.integers(1, 1000), min_size=1, max_size=30), st.integers(1, 30), st.integers(2, 100), st.integers(0, 9)
)
def test_dealing_covers_every_row_of_every_file(sizes, ranks, batch_size, epoch):
    assume(ranks <= len(sizes))
    dealt = [deal.parts(sizes, rank, ranks, 3, epoch) for rank in range(ranks)]
    places = sorted((p.file, place) for parts in dealt for p in parts for place in range(p.start, p.stop))
    assert places == [(file, place) for file, rows in enumerate(sizes) for place in range(rows)]
    assert all(part.seed == (3, epoch, part.file) and part.rows == sizes[part.file] for p in dealt for part in p)
    batches = [deal.batch_sizes(sum(sizes), batch_size, rank, ranks) for rank in range(ranks)]
    assert [sum(b) for b in batches] == [sum(part.stop - part.start for part in parts) for parts in dealt]
    every = list(itertools.chain(*batches))
    assert {len(b) for b in batches} == {deal.steps(sum(sizes), batch_size, ranks)}
    assert 1 <= min(every) <= max(every) <= batch_size and max(every) - min(every) <= 1


def test_only_the_columns_that_were_asked_for_are_read(even, reader):
    for columns in (("time",), ("items", "user_id")):
        assert {tuple(batch) for batch in feed_of(even, reader, columns=columns).epoch(0)} == {columns}


# The order ----------------------------------------------------------------------------------------------


def test_every_epoch_has_an_order_of_its_own_and_has_it_again(even, reader):
    """A run that resumes at an epoch sees what it would have seen, on every rank."""

    def order(epoch, **more):
        return [users(list(feed_of(even, reader, rank=rank, size=2, **more).epoch(epoch))) for rank in range(2)]

    orders = [order(epoch) for epoch in (0, 1, 7)]
    assert orders == [order(epoch) for epoch in (0, 1, 7)], "the same seed and epoch are the same batches"
    assert len({str(o) for o in orders}) == 3
    assert order(0, seed=4) != orders[0]
    walked = feed_of(even, reader, rank=0, size=2)
    assert [users(list(walked.epoch(epoch))) for epoch in (0, 1)] == [orders[0][0], orders[1][0]]
    assert any(b != a + 1 for a, b in itertools.pairwise(orders[0][0]) if a % 8), "rows are shuffled, too"
    within = {tuple(u % 8 for u in o[0][:8]) for o in (order(epoch) for epoch in range(4))}
    assert len(within) == 4, "and in each epoch anew"


def test_the_order_does_not_depend_on_timing(tmp_path, reader):
    """Whoever waits for whom: Petastorm's own shuffling once depended on it (its issue 798)."""
    path = write_feed(tmp_path, [5] * 24)
    rng = np.random.default_rng(1)
    orders = set()
    for workers, patient in itertools.product((1, 2, 5), (False, True)):
        order = []
        for batch in feed_of(path, reader, 16, rank=1, size=2, workers=workers).epoch(0):
            order += batch["user_id"].tolist()
            if patient:
                time.sleep(rng.uniform(0, 0.02))
        orders.add(tuple(order))
    assert len(orders) == 1 and len(orders.pop()) == 60


def test_both_readers_give_the_same_batches(even):
    for ours, theirs in zip(*(feed_of(even, name, 5).epoch(2) for name in READERS), strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in COLUMNS)


def test_rows_are_dealt_to_the_ranks_anew_every_epoch(even, reader):
    dealt = {frozenset(users(list(feed_of(even, reader, rank=0, size=2).epoch(epoch)))) for epoch in range(8)}
    assert len(dealt) > 1


# Bounds and ends ----------------------------------------------------------------------------------------


def test_no_more_than_a_few_row_groups_are_held(tmp_path, reader, monkeypatch):
    """However slow the consumer, and however many files are left."""
    path = write_feed(tmp_path, [2_000] * 30)
    module = READERS[reader]
    decoded, as_numpy = [], module.as_numpy
    monkeypatch.setattr(module, "as_numpy", lambda table: decoded.append(len(table)) or as_numpy(table))
    batches = feed_of(path, reader, 2_000, workers=1).epoch(0)
    for taken in range(1, 6):
        next(batches)
        time.sleep(0.3)
        ahead = 2 if reader == "arrow" else 3
        assert len(decoded) <= taken + ahead, "one waits, one is shuffled and finds no room, Petastorm holds one more"
    batches.close()


def test_epochs_end_without_reading_on(even, reader, monkeypatch, no_thread_left):
    module = READERS[reader]
    decoded, as_numpy = [], module.as_numpy
    monkeypatch.setattr(module, "as_numpy", lambda table: decoded.append(len(table)) or as_numpy(table))
    for epoch in range(3):
        for _ in feed_of(even, reader).epoch(epoch):
            time.sleep(0.02)
    assert len(decoded) == 3 * 6


def test_petastorm_loses_no_row_group_at_the_end(even, monkeypatch):
    """One that is handed out while Petastorm asks itself whether it is through; it is slowed down there."""
    completed, ventilate = ConcurrentVentilator.completed, ThreadPool.ventilate

    def slow(self):
        if "_ventilate" not in threading.current_thread().name:
            time.sleep(0.03)
        return completed(self)

    monkeypatch.setattr(ConcurrentVentilator, "completed", slow)
    monkeypatch.setattr(ThreadPool, "ventilate", lambda self, **of: (time.sleep(0.02), ventilate(self, **of)))
    for epoch in range(4):
        assert len(users(list(feed_of(even, "petastorm").epoch(epoch)))) == 48


@pytest.mark.parametrize("leave", ["break", "raise", "close", "end"])
def test_no_thread_is_left_behind(tmp_path, reader, leave, no_thread_left):
    feed = feed_of(write_feed(tmp_path, [50] * 20), reader, workers=2)
    if leave == "break":
        for _ in feed.epoch(0):
            assert feed_threads()
            break
    elif leave == "raise":
        with pytest.raises(ZeroDivisionError):
            for _ in feed.epoch(0):
                1 / 0  # noqa: B018
    elif leave == "close":
        batches = feed.epoch(0)
        next(batches)
        batches.close()
    else:
        assert len(list(feed.epoch(0))) == feed.steps


def test_an_error_on_the_thread_is_the_consumers(tmp_path, reader, monkeypatch, no_thread_left, capfd):
    """The very same error, at once, without a word elsewhere."""
    feed = feed_of(write_feed(tmp_path, [50] * 20), reader, 50, workers=2)
    module, number = READERS[reader], itertools.count()
    error, as_numpy = MemoryError("too much"), module.as_numpy

    def fail(table):
        if next(number) == 5:
            raise error
        return as_numpy(table)

    monkeypatch.setattr(module, "as_numpy", fail)
    begin, seen = time.perf_counter(), 0
    with pytest.raises(MemoryError) as caught:
        for _ in feed.epoch(0):
            seen += 1
    assert caught.value is error and seen <= 12 and time.perf_counter() - begin < 10
    assert not any(capfd.readouterr())


def test_an_error_nobody_waits_for_holds_nobody_up(tmp_path, reader, monkeypatch, no_thread_left):
    """A thread that fails while its queue is full must still end with the loop."""
    feed = feed_of(write_feed(tmp_path, [50] * 20), reader, 50)
    module, number, as_numpy = READERS[reader], itertools.count(), READERS[reader].as_numpy

    def fail(table):
        if next(number) >= 3:
            raise KeyError("x")
        return as_numpy(table)

    monkeypatch.setattr(module, "as_numpy", fail)
    batches = feed.epoch(0)
    next(batches)
    time.sleep(0.3)
    batches.close()


def test_interleaving_is_in_turn_and_ends_its_threads(no_thread_left):
    closed = []

    def source(name):
        try:
            for number in itertools.count():
                yield name, number
        finally:
            closed.append(name)

    items = interleaved([source("a"), source("b")], 1)
    assert [next(items) for _ in range(4)] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    items.close()
    assert sorted(closed) == ["a", "b"]
    assert list(interleaved([iter_of(5), iter_of(4)], 2)) == [0, 0, 1, 1, 2, 2, 3, 3, 4]


def iter_of(n: int):
    yield from range(n)


def test_batches_are_pinned_where_a_gpu_is(even, reader, monkeypatch):
    """Without a GPU here: what is asked of torch is looked at."""
    pinned, empty = [], torch.empty
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        shared.torch, "empty", lambda *shape, pin_memory, **of: pinned.append(pin_memory) or empty(*shape, **of)
    )
    joined = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: joined.append(len(self)) or self)
    batches = list(feed_of(even, reader, 5).epoch(0))
    assert pinned == [True] * (6 * len(COLUMNS))
    across = sum(len(b) != 0 for b in batches) and len(joined)
    assert across and across % len(COLUMNS) == 0, "batches across two row groups are copies"


# Feeds that do not fit ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "both_sides"),
    [
        ({"size": 7}, ["6 row groups", "7 ranks", "train.ranks"]),
        ({"columns": ("user_id", "genre")}, ["user_id, weight, time, items", "'genre'", "the model"]),
        ({"batch_size": 1, "size": 5}, ["48 rows", "5 ranks", "batch_size"]),
    ],
)
def test_a_feed_that_does_not_fit_what_is_asked_of_it_is_one_line(even, reader, change, both_sides):
    with pytest.raises(ConfigError) as error:
        feed_of(even, reader, **change)
    assert_one_line(error.value, *both_sides)


def replace(change: Callable[[pa.Table], pa.Table], **options) -> Callable[[Path], None]:
    return lambda file: pq.write_table(change(pq.read_table(file)), file, **options)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def retype(table: pa.Table) -> pa.Table:
    return table.set_column(0, "user_id", table["user_id"].cast(pa.int64()))


FAULTS = {
    "truncated": (truncate, ["manifest lists it", "cannot be read", "Parquet"]),
    "empty": (lambda file: file.write_bytes(b""), ["manifest lists it", "cannot be read"]),
    "missing": (lambda file: file.unlink(), ["manifest lists it", "cannot be read", "No such file"]),
    "type": (replace(retype), ["'user_id' as int64", "manifest says int32"]),
    "column": (replace(lambda t: t.drop_columns(["items"])), ["no column 'items'", "manifest says list<int32>"]),
    "rows": (replace(lambda t: t.slice(1)), ["7 rows in 1 row groups", "manifest says 8 in 1"]),
    "row groups": (replace(lambda t: t, row_group_size=4), ["8 rows in 2 row groups", "manifest says 8 in 1"]),
    "length": (replace(lambda t: table_of(np.arange(8), 5)), ["lists of 5 in 'items'", "3 in other files"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_against_its_manifest_is_one_line_before_the_first_step(tmp_path, reader, fault):
    path = write_feed(tmp_path, [8] * 3)
    file = path / "data" / "part-00001.parquet"
    spoil, both_sides = FAULTS[fault]
    spoil(file)
    with pytest.raises(DataError) as error:
        feed_of(path, reader)
    assert_one_line(error.value, str(file), *both_sides, f"remove {path}", "build the data set again")


def overwrite_pages(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[4:64] = b"\xff" * 60
    file.write_bytes(content)


def with_items(items: list) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(3, "items", pa.array(items, pa.list_(pa.int32())))


LATER = {
    "truncated": (truncate, ["cannot be read"]),
    "missing": (lambda file: file.unlink(), ["cannot be read"]),
    "pages": (overwrite_pages, ["cannot be read"]),
    "rows": (replace(lambda t: t.slice(1)), ["7 rows", "manifest says 8"]),
    "null": (replace(with_items([[1, 2, 3]] * 7 + [None])), ["'items' holds nulls"]),
    "null inside": (replace(with_items([[1, 2, 3]] * 7 + [[1, None, 3]])), ["'items' holds nulls"]),
    "ragged": (replace(with_items([[1, 2, 3]] * 6 + [[1, 2], [1, 2, 3, 4]])), ["'items' holds lists of different len"]),
}


@pytest.mark.parametrize("fault", LATER)
def test_a_file_that_breaks_later_is_one_line(tmp_path, reader, fault, no_thread_left, capfd):
    path = write_feed(tmp_path, [8] * 3)
    feed = feed_of(path, reader)
    file = path / "data" / "part-00001.parquet"
    spoil, says = LATER[fault]
    spoil(file)
    with pytest.raises(DataError) as error:
        list(feed.epoch(0))
    assert_one_line(error.value, str(file), *says)
    assert not any(capfd.readouterr())


def assert_one_line(error: Exception, *says: str) -> None:
    assert "\n" not in str(error)
    for part in says:
        assert part in str(error)
