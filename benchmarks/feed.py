"""Rows a second from Parquet to shuffled batches of tensors: through Petastorm and plain pyarrow, pairs and sequences.

The yardstick is a plain decode: `pq.read_table` of each file and a permutation of its rows by numpy, no batches. Beside
it stands Petastorm's own BatchedDataLoader, as its documentation has it. Batches have 2048 rows. The files are warm:
what is measured is decoding, not the disk.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from _report import Row, finish, parser

from recsys_spark.feed.reader import Feed, ReaderName
from recsys_spark.warehouse import MANIFEST

PAIRS, SEQUENCES, LENGTH, FILES, BATCH = 20_000_000, 1_000_000, 50, 20, 2_048
USERS, ITEMS = 500_000, 50_000
TIMES = 3
BAR = 0.5


def write_feed(path: Path, rows: int, length: int | None) -> Path:
    """Write a feed of users and an item, or lists of items, with its manifest. Items have a heavy tail."""
    (path / "data").mkdir(parents=True)
    rng = np.random.default_rng(7)
    popularity = np.cumsum(np.arange(1, ITEMS + 1) ** -0.8)
    files = []
    for number in range(FILES):
        n = rows // FILES
        drawn = np.searchsorted(popularity, rng.random(n * (length or 1)) * popularity[-1])
        columns: dict[str, pa.Array] = {"user_id": pa.array(rng.integers(1, USERS, n, dtype=np.int32))}
        values = pa.array(rng.permutation(ITEMS).astype(np.int32)[drawn])
        if length is None:
            columns["item_id"] = values
        else:
            cuts = pa.array(np.arange(0, n * length + 1, length, dtype=np.int32))
            columns["items"] = pa.ListArray.from_arrays(cuts, values)
        name = f"part-{number:05}.parquet"
        pq.write_table(pa.table(columns), path / "data" / name, row_group_size=n)
        files.append({"file": name, "rows": n, "row_groups": 1})
    schema = [["user_id", "int32"], ["item_id", "int32"] if length is None else ["items", "list<int32>"]]
    manifest = {"rows": rows, "row_groups": FILES, "files": files, "schema": schema}
    (path / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return path


def decoded(path: Path) -> Iterable[int]:
    """Decode each file and permute its rows: arrays, no batches."""
    rng = np.random.default_rng(1)
    for file in sorted((path / "data").iterdir()):
        table = pq.read_table(file)
        order = rng.permutation(len(table))
        for column in table.columns:
            flat = column.combine_chunks()
            if pa.types.is_list(flat.type):
                np.take(flat.flatten().to_numpy().reshape(len(flat), -1), order, axis=0)
            else:
                np.take(flat.to_numpy(), order)
        yield len(table)


def fed(path: Path, columns: tuple[str, ...], reader: ReaderName) -> Iterable[int]:
    """Read an epoch, as training does."""
    for batch in Feed(path, columns, BATCH, 0, 1, 7, reader=reader).epoch(0):
        yield len(batch["user_id"])


def loaded(path: Path) -> Iterable[int]:
    """Read an epoch with Petastorm's own loader for torch, its rows shuffled."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from petastorm import make_batch_reader
        from petastorm.pytorch import BatchedDataLoader

        reader = make_batch_reader(f"file://{path / 'data'}", workers_count=1, shuffle_rows=True, num_epochs=1, seed=7)
        with BatchedDataLoader(reader, batch_size=BATCH) as loader:
            for batch in loader:
                yield len(batch["user_id"])


def race(rows: int, contestants: dict[str, Callable[[], Iterable[int]]]) -> dict[str, float]:
    """Return each one's median rows a second, measured in turn, so that a busy moment does not hit one alone."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(TIMES):
        for name, read in contestants.items():
            gc.collect()
            begin = time.perf_counter()
            seen = sum(read())
            seconds[name].append(time.perf_counter() - begin)
            assert abs(seen - rows) <= rows / FILES, f"{name} read {seen} rows of {rows}"
    return {name: rows / float(np.median(s)) for name, s in seconds.items()}


def main(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        kinds = [("pairs", PAIRS, None, "item_id"), (f"sequences of {LENGTH}", SEQUENCES, LENGTH, "items")]
        for kind, number, length, column in kinds:
            path = write_feed(Path(folder) / kind.replace(" ", "-"), number, length)
            columns = ("user_id", column)
            rate = race(number, {
                "decode": lambda path=path: decoded(path),
                "petastorm": lambda path=path, columns=columns: fed(path, columns, "petastorm"),
                "arrow": lambda path=path, columns=columns: fed(path, columns, "arrow"),
                "loader": lambda path=path: loaded(path),
            })  # fmt: skip
            for reader, bar in (("petastorm", BAR), ("arrow", None)):
                ratio = rate[reader] / rate["decode"]
                rows.append(
                    Row(f"{kind}, reader {reader}", rate[reader], "rows/s", "plain decode", rate["decode"], ratio,
                        f"≥ {bar}" if bar else None, ratio >= bar if bar else None)
                )  # fmt: skip
            rows.append(
                Row(f"{kind}, reader petastorm", rate["petastorm"], "rows/s", "BatchedDataLoader", rate["loader"],
                    rate["petastorm"] / rate["loader"])
            )  # fmt: skip
    finish("feed", rows, options.out)


if __name__ == "__main__":
    main(parser(__doc__.splitlines()[0]).parse_args())
