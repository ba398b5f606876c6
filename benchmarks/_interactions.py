"""Interactions with heavy tails, for the benchmarks of models: who does how much, and what is how popular."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FILES = 8


def draw(n: int, users: int, items: int, seed: int = 7) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return about n distinct (user, item) pairs and their weights: log-normal users, Zipf items; ids from 1."""
    rng = np.random.default_rng(seed)
    by_user = np.cumsum(rng.lognormal(0, 1.2, users))
    by_item = np.cumsum(np.arange(1, items + 1) ** -0.8)
    item_name = rng.permutation(items)
    pairs = np.empty(0, np.int64)
    while len(pairs) < n:
        more = int((n - len(pairs)) * 1.2) + 1_000
        user = np.searchsorted(by_user, rng.random(more) * by_user[-1])
        item = item_name[np.searchsorted(by_item, rng.random(more) * by_item[-1])]
        pairs = np.union1d(pairs, user * items + item)
    pairs = np.sort(rng.choice(pairs, n, replace=False))
    weight = rng.choice(np.array([1, 2, 4], np.float32), n, p=[0.7, 0.2, 0.1])
    return (pairs // items + 1).astype(np.int32), (pairs % items + 1).astype(np.int32), weight


def write(folder: Path, user: np.ndarray, item: np.ndarray, weight: np.ndarray) -> Path:
    """Write them as interactions: shuffled, in a few files."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    order = np.random.default_rng(1).permutation(len(user))
    for part, rows in enumerate(np.array_split(order, FILES)):
        ratings = pa.nulls(len(rows), pa.float32())
        table = pa.table({"user_id": user[rows], "item_id": item[rows], "weight": weight[rows], "rating": ratings})
        pq.write_table(table, folder / f"part-{part}.parquet")
    return folder
