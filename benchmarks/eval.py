"""Every ranking metric at k = 5, 10, 20, 50 and 100 on a million users' top-100, beside rectools on the same lists.

Both read the same Parquet files on two cores and give the mean of every metric. rectools has no engine of its own for
more than one core and makes a row of every rank, so that it gets the users in chunks, on two processes. Their means
have to be the same. Starting Spark and rectools' imports are not counted; ours is warmed up on some of the users, which
also compiles its kernel.

Beside it the paired bootstrap, whose bar is a minute for 10,000 replicates of a million users on two cores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _memory import WorkerMemory
from _peers import peers_python
from _report import Row, finish, parser

from recsys_spark.config import SparkConfig
from recsys_spark.evaluation.bootstrap import BootstrapSums, bootstrap_sums
from recsys_spark.evaluation.lists import mean_metrics
from recsys_spark.session import get_session

ITEMS, K, KS, FILES, CHUNK = 25_000, 100, [5, 10, 20, 50, 100], 8, 20_000
BAR, BAR_BOOTSTRAP = 3.0, 60.0
REPLICATES = 10_000


def write_lists(folder: Path, users: int) -> Path:
    """Write lists of distinct items and truths of 1 to 20 items, some of which the list holds."""
    folder.mkdir()
    for number, part in enumerate(np.array_split(np.arange(1, users + 1), FILES)):
        rng = np.random.default_rng(number)
        start, step = rng.integers(0, ITEMS - 1, (2, len(part), 1))
        step |= 1  # odd, and no multiple of 5: then no item comes twice in a list of ITEMS = 2^3 5^5 of them
        step += 2 * (step % 5 == 0)
        ranked = 1 + (start + step * np.arange(K)) % ITEMS
        sizes = rng.integers(1, 21, len(part))
        own = rng.random(sizes.sum()) < 0.2
        row = np.repeat(np.arange(len(part)), sizes)
        truth = np.where(own, ranked[row, rng.integers(0, K, len(row))], rng.integers(1, ITEMS + 1, len(row)))
        first = np.unique(row.astype(np.int64) << 32 | truth, return_index=True)[1]
        row, truth = row[np.sort(first)], truth[np.sort(first)]
        cuts = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(part)))]).astype(np.int32)
        every = np.arange(0, K * len(part) + 1, K, np.int32)
        lists = {
            "items": pa.ListArray.from_arrays(every, ranked.ravel().astype(np.int32)),
            "held_out": pa.ListArray.from_arrays(cuts, truth.astype(np.int32)),
        }
        pq.write_table(pa.table({"user_id": part.astype(np.int32), **lists}), folder / f"{number}.parquet")
    return folder


def _sums(part: tuple[int, int]) -> BootstrapSums:
    ids = np.arange(*part)
    values = np.random.default_rng(part[0]).normal(0.001, 0.1, len(ids))
    return bootstrap_sums(values, ids, REPLICATES, seed=1)


def bootstrap_seconds(users: int) -> float:
    """Return how long the differences of so many users take, on two processes as on two tasks of Spark."""
    cuts = np.linspace(0, users, 21).astype(int).tolist()
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(_sums, [(0, 10), (10, 20)]))
        begin = time.perf_counter()
        sums = list(pool.map(_sums, list(itertools.pairwise(cuts))))
        sum(sums, start=BootstrapSums.empty(REPLICATES)).interval(0.95)
        return time.perf_counter() - begin


def main(options: argparse.Namespace) -> None:
    python = peers_python()
    spark = get_session(SparkConfig(master="local[2]", driver_memory="4g", shuffle_partitions=4), "bench-eval")
    with tempfile.TemporaryDirectory() as folder:
        some, few, lists = (
            write_lists(Path(folder) / name, users)
            for name, users in (("some", 20_000), ("few", options.users // 10), ("all", options.users))
        )
        mean_metrics(spark, some, KS)
        memory = []
        for each in (few, lists):
            with WorkerMemory() as watched:
                begin = time.perf_counter()
                found = mean_metrics(spark, each, KS)
                own = time.perf_counter() - begin
            memory.append(watched.mb)
        script = Path(__file__).with_name("_rectools_metrics.py")
        command = [str(python), str(script), str(lists), str(CHUNK), "2", json.dumps(KS)]
        peer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    for name, value in peer["means"].items():
        if name.startswith("map"):  # another denominator: see docs/metrics.md
            continue
        if abs(found[name] - value) > 1e-9:
            raise SystemExit(f"{name} is {found[name]} here and {value} in rectools")
    spark.stop()
    seconds = bootstrap_seconds(options.users)
    faster = peer["seconds"] / own
    finish("eval", [
        Row(f"{options.users:,} users, {len(found)} metrics", own, "s", "rectools", peer["seconds"], faster, f"≥ {BAR}",
            faster >= BAR),
        Row("private memory of a Python worker", memory[1], "MB", "of a tenth of the users", memory[0],
            memory[1] / memory[0]),
        Row("memory of a process", memory[1], "MB", "rectools", peer["mb"]),
        Row(f"paired bootstrap, {REPLICATES:,} replicates", seconds, "s", bar=f"≤ {BAR_BOOTSTRAP} s",
            holds=seconds <= BAR_BOOTSTRAP),
    ], options.out)  # fmt: skip


if __name__ == "__main__":
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--users", type=int, default=1_000_000, help="how many users have a list")
    main(arguments.parse_args())
