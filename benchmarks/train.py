"""Training and validation of deep models: samples a second, seconds an epoch, CPU-seconds to a quality, two ranks.

The other side is RecBole 1.2.1 or RePlay 0.22.0 on 2 idle cores with 2 threads, as measured before: neither installs
beside what is pinned here. Models have those libraries' sizes and batches. What is timed begins with the feed's files
and ends with the updated weights. Without `--movielens` data of the same size is generated, and the row that needs the
real one is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import horovod.torch as hvd
import numpy as np
import pandas as pd
import torch
import yaml
from _interactions import draw
from _report import Row, finish, parser
from _training import job, write_feed, write_histories, write_known, write_log

from recsys_spark.models import module_of
from recsys_spark.training import checkpoint
from recsys_spark.training.job import STOP, Epoch, read_epochs
from recsys_spark.training.loop import new_recommender, train
from recsys_spark.training.validate import Validation
from recsys_spark.warehouse import MANIFEST

USERS, ITEMS, ROWS, LENGTH = 943, 1_682, 98_114, 50  # MovieLens-100k without each user's last two
RECBOLE, REPLAY = "RecBole (before)", "RePlay (before)"
SETTINGS: dict[str, dict[str, Any]] = {
    "neumf": {"hidden": [128, 64], "negatives": 1, "loss": "bce", "batch_size": 1_024},  # 2048 with the negatives
    "sasrec": {"loss": "sampled_softmax", "negatives": 256, "batch_size": 128},
    "lightgcn": {"layers": 2, "batch_size": 2_048},
    "mult_vae": {"hidden": 600, "batch_size": 160},  # windows, of some 64 users
    "bpr": {"batch_size": 2_048},
}
TARGET, TARGET_CPU = 0.1014, 370.0  # RecBole's SASRec on the test part, and the CPU-seconds that it took
SASREC = Path("conf/models/sasrec.yaml")  # its windows are histories of 20 and the item behind them
LARGE_USERS, LARGE_ITEMS, LARGE_ROWS, LARGE_BATCH = 1_000_000, 100_000, 163_840, 4_096


def generated() -> pd.DataFrame:
    """Return a log of the size of MovieLens-100k, each user's last two held out."""
    user, item, _ = draw(ROWS + 2 * USERS, USERS, ITEMS)
    log = pd.DataFrame({"user_id": user, "item_id": item, "timestamp": np.random.default_rng(3).permutation(len(user))})
    log = log.sort_values(["user_id", "timestamp"])
    newer = log.groupby("user_id").cumcount(ascending=False)
    log["split"] = np.select([newer == 0, newer == 1], ["test", "valid"], "train")
    return log[log.groupby("user_id")["item_id"].transform("size") > 3]


def timed(root: Path, model: str, epochs: int = 5) -> tuple[float, float, float]:
    """Train; return an epoch's rows a second and its seconds of training and of validation, as medians."""
    with tempfile.TemporaryDirectory() as folder:
        of = job(root, Path(folder), model, {**SETTINGS[model], "epochs": epochs})
        done = train(of)[1:]  # the first one warms up
    rows = json.loads((of.feed / MANIFEST).read_text(encoding="utf-8"))["rows"]
    trained = [rows / e.samples_per_second for e in done]
    validated = [e.seconds - t for e, t in zip(done, trained, strict=True)]
    return rows / median(trained), median(trained), median(validated)


def faster(work: str, ours: float, unit: str, peer: str, theirs: float, bar: float) -> Row:
    """Compare rates, or seconds: either way the ratio says how many times as fast ours is."""
    ratio = theirs / ours if unit == "s" else ours / theirs
    return Row(work, ours, unit, peer, theirs, ratio, f"≥ {bar}", ratio >= bar)


def epochs(root: Path) -> list[Row]:
    """Epochs of each model, and validation over the full catalogue after them."""
    rate, _, neumf = timed(root, "neumf")
    sequences, _, _ = timed(root, "sasrec")
    _, lightgcn, of_lightgcn = timed(root, "lightgcn")
    _, mult_vae, _ = timed(root, "mult_vae", 8)
    _, bpr, of_bpr = timed(root, "bpr", 8)
    rows = [
        faster("NeuMF, pairs with their negatives", 2 * rate, "1/s", RECBOLE, 256_000.0, 3),
        faster("SASRec, sequences of 50", sequences, "1/s", REPLAY, 1_848.0, 1.5),
        faster("LightGCN, an epoch", lightgcn, "s", RECBOLE, 1.23, 2),
        faster("Mult-VAE, an epoch", mult_vae, "s", RECBOLE, 0.16, 1.5),
        faster("BPR, an epoch", bpr, "s", RECBOLE, 0.157, 1),
        faster("NeuMF, validation over all items", neumf, "s", RECBOLE, 2.15, 5),
    ]
    for name, epoch, validation in (("BPR", bpr, of_bpr), ("LightGCN", lightgcn, of_lightgcn)):
        share = validation / epoch
        rows.append(Row(f"{name}, validation", validation, "s", "its epoch", epoch, share, "≤ 0.2", share <= 0.2))
    return rows


def to_quality(root: Path) -> Row:
    """Train SASRec, on one thread, until the epoch that validation has chosen so far has RecBole's figure on test."""
    conf = yaml.safe_load(SASREC.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        of = job(root, Path(folder), "sasrec", conf["models"]["sasrec"], threads=1)
        model, network = new_recommender(of, module_of("sasrec"), conf["dataset"]["history_length"])
        test = Validation(root / "test", 0, 1, 20_000, 7)
        spent, reached = 0.0, []

        def look(_: Epoch) -> None:
            nonlocal spent
            begin = time.process_time()
            best = checkpoint.load(of.folder, checkpoint.BEST)
            assert best is not None
            network.load_state_dict(best["network"])
            total, users = test.ndcg_sum(model)
            if total / users >= TARGET and not reached:
                reached.append(begin - start - spent)
                (of.folder / STOP).touch()
            spent += time.process_time() - begin

        start = time.process_time()
        train(of, look)
        cpu = reached[0] if reached else float("inf")
    work = f"SASRec, CPU-seconds to NDCG@10 {TARGET} on test"
    return faster(work, cpu, "s", RECBOLE, TARGET_CPU, 5)


def write_large(root: Path, share: float) -> Path:
    """Write pairs with histories of a million users, each of whom is trained, and a hundred thousand items."""
    rng = np.random.default_rng(5)
    users, items, rows = (int(n * share) for n in (LARGE_USERS, LARGE_ITEMS, LARGE_ROWS))
    popular = np.cumsum(np.arange(1, items + 1) ** -0.8)
    names = rng.permutation(items) + 1
    drawn = names[np.searchsorted(popular, rng.random((rows, LENGTH + 1)) * popular[-1])]
    pairs = {"user_id": rng.integers(1, users + 1, rows), "item_id": drawn[:, 0], "history": drawn[:, 1:]}
    write_known(write_feed(root / "pairs", pairs, LENGTH), np.arange(1, users + 1), np.arange(1, items + 1))
    some = range(1, 33)
    write_histories(root / "valid", {u: drawn[u].tolist() for u in some}, {u: [int(names[u])] for u in some})
    return root


def as_rank(root: Path, folder: Path, batch: int, sparse: bool) -> None:
    """Be one of the ranks of a two-tower training on what `write_large` has written."""
    hvd.init()
    settings = {"dim": 64, "batch_size": batch // hvd.size(), "epochs": 3, "sparse_gradients": sparse}
    train(job(root, folder, "two_tower", settings, threads=1))


def ranks(root: Path, share: float) -> list[Row]:
    """Two ranks beside one, a thread each, the global batch equal; and dense gradients beside sparse ones."""
    write_large(root, share)
    rates = {}
    for number, sparse in ((1, True), (2, True), (2, False)):
        folder = root / f"{number}-{sparse}"
        command = ["horovodrun", "-np", str(number), "--gloo", sys.executable, __file__, "--as-rank", str(root)]
        command += [str(folder), str(int(LARGE_BATCH * share)), "sparse" if sparse else "dense"]
        subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, "OMP_NUM_THREADS": "1"})
        rates[number, sparse] = median(e.samples_per_second for e in read_epochs(folder)[1:])
    work = f"two-tower, {share:g} × (1 M users, 100 k items) × 64, two ranks"
    two = rates[2, True]
    return [
        faster(work, two, "rows/s", "one rank", rates[1, True], 1.7),
        faster(work, two, "rows/s", "dense gradients", rates[2, False], 1),
    ]


def on_gpu(root: Path) -> list[Row]:
    """NeuMF fed by the real feed on one GPU, large batches, and how long it waits for the feed."""
    user, item, _ = draw(20_000_000, 1_000_000, 100_000)
    pairs = {"user_id": user, "item_id": item}
    write_known(write_feed(root / "pairs", pairs, LENGTH), user, item)
    write_histories(root / "valid", {u: [1] for u in range(1, 33)}, {u: [2] for u in range(1, 33)})
    settings = {"batch_size": 1 << 18, "negatives": 4, "avoid_positives": False, "sparse_gradients": True, "epochs": 4}
    done = train(job(root, root / "run", "neumf", settings, precision="bfloat16"))[1:]
    rate, wait = 5 * median(e.samples_per_second for e in done), median(e.feed_wait_share for e in done)
    return [
        Row("NeuMF on a GPU, pairs with their negatives", rate, "1/s", bar="≥ 30 M", holds=rate >= 30e6),
        Row("NeuMF on a GPU, share that waits for the feed", wait, "", bar="< 0.1", holds=wait < 0.1),
    ]


def main(options: argparse.Namespace) -> None:
    log = pd.read_csv(options.movielens) if options.movielens else generated()
    parts: dict[str, Callable[[Path], list[Row]]] = {}
    parts["epochs"] = lambda root: epochs(write_log(root, log, LENGTH, LENGTH))
    if options.movielens:
        cut = yaml.safe_load(SASREC.read_text(encoding="utf-8"))["dataset"]
        length, stride = cut["history_length"], cut["sequence_stride"]
        parts["quality"] = lambda root: [to_quality(write_log(root, log, length, stride))]
    parts["ranks"] = lambda root: ranks(root, options.share)
    if torch.cuda.is_available():
        parts["gpu"] = on_gpu
    rows = []
    for name, part in parts.items():
        if options.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                rows += part(Path(folder))
    finish("train", rows, options.out)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as-rank"]:
        as_rank(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "sparse")
        sys.exit()
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--movielens", type=Path, help="MovieLens-100k as leave_one_out.csv, with its split")
    arguments.add_argument("--share", type=float, default=1.0, help="of the tables that two ranks train, to try it out")
    arguments.add_argument("--only", choices=["epochs", "quality", "ranks", "gpu"], help="measure this part alone")
    main(arguments.parse_args())
