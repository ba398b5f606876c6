"""What the training benchmark trains on: feeds and histories as the data set station writes them, without Spark."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_spark.models import module_of
from recsys_spark.training.job import TrainingJob
from recsys_spark.warehouse import MANIFEST

FILES = 8


def write_feed(path: Path, columns: dict[str, np.ndarray], length: int) -> Path:
    """Write a feed of columns [rows], or [rows, length] for lists, its rows shuffled."""
    (path / "data").mkdir(parents=True)
    order = np.random.default_rng(1).permutation(len(next(iter(columns.values()))))
    files = []
    for part, rows in enumerate(np.array_split(order, FILES)):
        table = pa.table({name: _array(name, values[rows]) for name, values in columns.items()})
        name = f"part-{part:05}.parquet"
        pq.write_table(table, path / "data" / name, row_group_size=len(rows))
        files.append({"file": name, "rows": len(rows), "row_groups": 1})
    schema = [[n, f"list<{_type(n)}>" if values.ndim > 1 else str(_type(n))] for n, values in columns.items()]
    manifest = {"rows": len(order), "row_groups": FILES, "files": files, "history_length": length, "schema": schema}
    (path / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return path


def _type(name: str) -> pa.DataType:
    return pa.int64() if name == "times" else pa.int32()


def _array(name: str, values: np.ndarray) -> pa.Array:
    flat = pa.array(values.ravel(), _type(name))
    if values.ndim == 1:
        return flat
    return pa.ListArray.from_arrays(pa.array(np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)), flat)


def write_known(path: Path, users: np.ndarray, items: np.ndarray) -> None:
    """Write beside a feed of pairs which ids it trains."""
    for name, key, ids in (("users", "user_id", users), ("items", "item_id", items)):
        found, counts = np.unique(ids, return_counts=True)
        (path / name).mkdir()
        pq.write_table(pa.table({key: found.astype(np.int32), "count": counts}), path / name / "part.parquet")


def write_histories(path: Path, known: dict[int, list[int]], held_out: dict[int, list[int]]) -> Path:
    """Write what is known of users, oldest first, and what was held out."""
    (path / "known=train").mkdir(parents=True)
    users = sorted(set(known) & set(held_out))
    ones = [np.ones(len(known[u]), np.float32) for u in users]
    ints, floats = pa.list_(pa.int32()), pa.list_(pa.float32())
    table = pa.table({
        "user_id": pa.array(users, pa.int32()), "items": pa.array([known[u] for u in users], ints),
        "weights": pa.array(ones, floats), "ratings": pa.array([o * np.nan for o in ones], floats),
        "held_out": pa.array([sorted(held_out[u]) for u in users], ints),
    })  # fmt: skip
    pq.write_table(table, path / "known=train" / "part.parquet")
    return path


def windows(log: pd.DataFrame, length: int, stride: int) -> dict[str, np.ndarray]:
    """Cut histories into windows of the feed of sequences, counted from the newest item."""
    users, rows = [], []
    for user, of in log.groupby("user_id"):
        history, n = of[["item_id", "timestamp"]].to_numpy(), len(of)
        for newest in {max(n - length, 0), *range(0, max(n - length, 0), stride)} if n > 1 else ():
            row = history[max(n - newest - length, 0) : n - newest]
            rows.append(np.pad(row, ((length - len(row), 0), (0, 0))))
            users.append(user)
    items, times = np.moveaxis(np.array(rows), 2, 0)
    return {"user_id": np.array(users), "items": items, "times": times, "length": (items > 0).sum(axis=1)}


def write_log(root: Path, log: pd.DataFrame, length: int, stride: int) -> Path:
    """Write feeds and histories of a log with the columns user_id, item_id, timestamp and split."""
    log = log.sort_values(["user_id", "timestamp", "item_id"], kind="stable")
    parts = {name: rows for name, rows in log.groupby("split")}
    lists = {name: rows.groupby("user_id")["item_id"].agg(list).to_dict() for name, rows in parts.items()}
    train = parts["train"]
    pairs = {name: train[name].to_numpy() for name in ("user_id", "item_id")}
    write_known(write_feed(root / "pairs", pairs, length), *pairs.values())
    write_feed(root / "sequences", windows(train, length, stride), length)
    write_histories(root / "valid", lists["train"], lists["valid"])
    more = {u: items + lists["valid"].get(u, []) for u, items in lists["train"].items()}
    write_histories(root / "test", more, lists["test"])
    return root


def job(root: Path, folder: Path, model: str, settings: dict, threads: int = 2, **how: object) -> TrainingJob:
    """Describe a training on what `write_log` has written."""
    module = module_of(model)
    config = module.Config.model_validate(settings)
    feed = root / getattr(module.Network, "feed", "pairs")
    folder.mkdir(parents=True, exist_ok=True)
    return TrainingJob(
        model, config.model_dump(), feed, root / "pairs", root / "valid", folder, seed=7, patience=1_000,
        threads=threads, valid_users=20_000, feed_workers=1, reader="petastorm", **how,
    )  # fmt: skip
