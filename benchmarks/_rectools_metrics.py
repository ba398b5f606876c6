"""rectools' ranking metrics over the lists of benchmarks/eval.py, in build/peers: seconds, memory and means as JSON.

Its arguments are the folder of the lists, the users of a chunk, the number of processes, and the cut-offs as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from rectools import metrics as m


def chunks(folder: str, users: int) -> list[tuple[str, int, int]]:
    return [
        (str(file), start, users)
        for file in sorted(Path(folder).glob("*.parquet"))
        for start in range(0, pq.ParquetFile(file).metadata.num_rows, users)
    ]


def measure(task: tuple[str, int, int]) -> tuple[dict[str, float], int]:
    """Sum every metric over some users: the whole file would be 100 million rows at once."""
    file, start, users = task
    rows = pq.read_table(file).slice(start, users)
    user = rows["user_id"].to_numpy()
    frames = []
    for name in ("items", "held_out"):
        lengths = np.diff(rows[name].combine_chunks().offsets.to_numpy())
        items = rows[name].combine_chunks().flatten().to_numpy()
        frames.append(pd.DataFrame({"user_id": np.repeat(user, lengths), "item_id": items}))
    reco, truth = frames
    reco["rank"] = np.concatenate([np.arange(1, n + 1) for n in np.diff(rows["items"].combine_chunks().offsets)])
    wanted = {}
    for k in KS:
        wanted |= {
            f"precision@{k}": m.Precision(k), f"recall@{k}": m.Recall(k), f"hit_rate@{k}": m.HitRate(k),
            f"capped_recall@{k}": m.Precision(k, r_precision=True), f"f1@{k}": m.F1Beta(k),
            f"ndcg@{k}": m.NDCG(k, divide_by_achievable=True), f"mrr@{k}": m.MRR(k), f"map@{k}": m.MAP(k),
        }  # fmt: skip
    found = m.calc_metrics(wanted, reco, truth)
    return {name: float(value) * len(user) for name, value in found.items()}, len(user)


if __name__ == "__main__":
    folder, chunk, processes, ks = sys.argv[1:]
    KS = json.loads(ks)
    begin = time.perf_counter()
    totals: dict[str, float] = {}
    users = 0
    with Pool(int(processes)) as pool:
        for values, n in pool.imap_unordered(measure, chunks(folder, int(chunk))):
            users += n
            for name, value in values.items():
                totals[name] = totals.get(name, 0.0) + value
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    means = {name: value / users for name, value in totals.items()}
    print(json.dumps({"seconds": seconds, "mb": peak, "means": means}))
