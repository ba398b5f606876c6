"""One top-K for every model, in Spark's tasks: a row group of histories to a file of lists.

Memory is bounded by a block of users, never by users x items, and for dot-product models not even by block x items.
Ties go to the smaller item id, so the lists do not depend on how the users were dealt out. A run that was killed goes
on where it stopped: a row group whose file of lists stands is not looked at again.
"""

from __future__ import annotations

import datetime as dt
import functools
import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema
from threadpoolctl import threadpool_limits

from recsys_spark import models
from recsys_spark.config import ExplorationConfig
from recsys_spark.models.base import Floats, Ints, Recommender, UserBlock
from recsys_spark.recommendation import index as indexes
from recsys_spark.recommendation.exploration import GREEDY, explore, policy_name
from recsys_spark.recommendation.select import blocks, recommend_block
from recsys_spark.session import deal, task_threads

TOP_K = pa.schema([
    ("user_id", pa.int32()), ("model", pa.string()),
    ("items", pa.list_(pa.int32())), ("scores", pa.list_(pa.float32())),
])  # fmt: skip
"""One row per user; lists are shorter than k where fewer items can be recommended, possibly empty."""
EXPLORED = TOP_K.append(pa.field("policy", pa.string())).append(pa.field("propensities", pa.list_(pa.float64())))
"""The same with how a list was drawn, and the propensity of each item."""
Ask = Callable[[UserBlock, int], tuple[Ints, Floats]]
"""Takes B users and k, and returns items [B, k] and scores [B, k]."""
_COLUMNS = ["user_id", "items", "weights", "ratings"]


def top_k(
    spark: SparkSession, histories: Path, model: Path, k: int, block_users: int, out: Path,
    *, index: Path | None = None, fallback: Path | None = None, since: Any = None, exploring: Exploring | None = None,
    moment: Path | None = None,
) -> DataFrame:  # fmt: skip
    """Recommend k unseen items to every user: rows of `TOP_K`, of `EXPLORED` where lists are drawn.

    Args:
        histories: Parquet files with the columns of the `histories` table, for one moment.
        model: a saved model, on a disk that the executors share; each loads it once.
        block_users: users scored at a time by a thread.
        out: folder of the lists; made where missing. What stands in it from an earlier run of the same is kept, so
            that its name has to say what it is of.
        index: an index of the model, which then is not asked for the scores of every item.
        fallback: a saved model that serves whom the first does not know.
        since: leave out users whose `last_day` is before this day.
        exploring: how lists are drawn from the best items; None = the k best.
        moment: the features of users and items at that moment, for a model that ranks by them.
    """
    schema = TOP_K if exploring is None else EXPLORED
    out.mkdir(parents=True, exist_ok=True)
    groups = [
        (file, group, out / f"{file.stem[:40]}-{group:05d}.parquet")
        for file in sorted(histories.glob("*.parquet"))
        for group in range(pq.ParquetFile(file).num_row_groups)
    ]
    todo = [group for group in groups if not group[2].exists()]
    context = spark.sparkContext
    threads = task_threads(context)

    def recommend(task: tuple[Path, int, Path]) -> None:
        file, group, lists = task
        first = models.load(model, moment)
        ask = functools.partial(recommend_block, first) if index is None else _index(index, model).recommend_block
        served = first.name, ask, models.load(fallback) if fallback else None
        aside = lists.with_name(f".{lists.name}.{uuid.uuid4().hex}")
        with threadpool_limits(threads), pq.ParquetWriter(aside, schema, compression="zstd") as writer:
            for rows in _read(file, group, block_users * threads, since):
                users = read_block(rows)
                share = -(-len(users) // threads)
                with ThreadPoolExecutor(threads) as pool:
                    parts = pool.map(lambda part: _lists(*served, part, k, exploring), blocks(users, max(1, share)))
                    for part in parts:
                        writer.write_batch(part)
        os.replace(aside, lists)

    if todo:
        deal(context, todo).foreach(recommend)
    return spark.read.schema(from_arrow_schema(schema)).parquet(*(str(group[2]) for group in groups))


@dataclass(frozen=True)
class Exploring:
    """How the lists of a night are drawn."""

    config: ExplorationConfig
    night: dt.date


@functools.lru_cache(maxsize=1)
def _index(index: Path, model: Path) -> indexes.Index:
    return indexes.load(index, models.load(model))


def sample_users(histories: Path, n: int) -> UserBlock:
    """Return the first n users of the `histories` table, where a hash has put them, or all; there has to be one."""
    rows: list[pa.RecordBatch] = []
    for file in sorted(histories.glob("*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(n, columns=_COLUMNS):
            rows.append(batch)
            if sum(map(len, rows)) >= n:
                return read_block(pa.Table.from_batches(rows).slice(0, n))
    return read_block(pa.Table.from_batches(rows))


def read_block(rows: pa.RecordBatch | pa.Table) -> UserBlock:
    """Turn rows of the `histories` table into a block, its lists as they lie in memory."""
    lists = {name: rows.column(name) for name in _COLUMNS[1:]}
    if isinstance(rows, pa.Table):
        lists = {name: column.combine_chunks() for name, column in lists.items()}
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(pc.list_value_length(lists["items"]).to_numpy(zero_copy_only=False), out=offsets[1:])
    items, weights, ratings = (lists[n].flatten().to_numpy(zero_copy_only=False) for n in _COLUMNS[1:])
    return UserBlock(
        rows.column("user_id").to_numpy().astype(np.int64), offsets, items.astype(np.int64),
        weights.astype(np.float32, copy=False), ratings.astype(np.float32, copy=False),
    )  # fmt: skip


def _read(file: Path, group: int, size: int, since: Any) -> Iterator[pa.RecordBatch]:
    columns = _COLUMNS if since is None else [*_COLUMNS, "last_day"]
    for batch in pq.ParquetFile(file).iter_batches(size, [group], columns):
        if since is not None:
            batch = batch.filter(pc.greater_equal(batch.column("last_day"), pa.scalar(since)))
        if len(batch):
            yield batch


def _lists(
    name: str, ask: Ask, fallback: Recommender | None, users: UserBlock, k: int, exploring: Exploring | None
) -> pa.RecordBatch:
    n = k if exploring is None else max(k, exploring.config.candidates)
    items, scores = ask(users, n)
    names = np.full(len(users), name, object)
    cold = np.flatnonzero(~(items > 0).any(axis=1))
    if len(cold) and fallback is not None:
        items[cold], scores[cold] = recommend_block(fallback, users.only(cold), n)
        names[cold] = fallback.name
    if exploring is None:
        return to_batch(users.user_id, names, items, scores)
    shown, of, chances, explores = explore(items, scores, users.user_id, k, exploring.config, exploring.night)
    drawn = np.where(explores, policy_name(exploring.config), GREEDY)
    lists = to_batch(users.user_id, names, shown, of)
    more = [
        pa.array(drawn, pa.string()),
        pa.ListArray.from_arrays(lists["items"].offsets, pa.array(chances[shown > 0])),
    ]
    return pa.RecordBatch.from_arrays([*lists.columns, *more], schema=EXPLORED)


def to_batch(user_id: Ints, names: np.ndarray, items: Ints, scores: Floats) -> pa.RecordBatch:
    """Return lists [B, k], filled up with item 0, as rows of `TOP_K`."""
    filled = items > 0
    offsets = pa.array(np.concatenate([[0], np.cumsum(filled.sum(axis=1))]), pa.int32())
    columns = [
        pa.array(user_id, pa.int32()), pa.array(names, pa.string()),
        pa.ListArray.from_arrays(offsets, pa.array(items[filled], pa.int32())),
        pa.ListArray.from_arrays(offsets, pa.array(scores[filled], pa.float32())),
    ]  # fmt: skip
    return pa.RecordBatch.from_arrays(columns, schema=TOP_K)
