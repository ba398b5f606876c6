"""NDCG@10 of ALS's two engines, each from several starts: how far they are apart, beside how far starts are.

Split and parameters are those of conf/movielens-100k-reference.yaml. Models learn from `train` and are measured on
`test` over the full catalogue, the user's train and valid items taken out. The objective has many optima, and a start
decides which of them a fit ends in; so one fit of each engine says little of how the engines differ.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from _report import Row, finish, parser
from pyspark.sql import SparkSession
from tqdm import tqdm

from recsys_spark.config import SparkConfig, load_config
from recsys_spark.evaluation.metrics import evaluate_lists
from recsys_spark.models import als
from recsys_spark.models.base import TrainingData, UserBlock
from recsys_spark.recommendation.select import recommend_block
from recsys_spark.session import get_session

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "conf/movielens-100k-reference.yaml"
ENGINES = ("blocked", "mllib")
BAR = 0.002


def ndcg(spark: SparkSession, log: pd.DataFrame, engine: str, seeds: list[int]) -> list[float]:
    """Return an engine's NDCG@10 on test from each start."""
    settings = load_config(CONFIG).models["als"]
    train, held_out = log[log["split"] == "train"], log[log["split"] == "test"]
    types = {"user_id": "int32", "item_id": "int32", "rating": "float32"}
    rows = spark.createDataFrame(train[list(types)].astype(types).assign(weight=np.float32(1))).cache()
    known = log[log["split"] != "test"].sort_values(["user_id", "timestamp"], kind="stable")
    truth = held_out.groupby("user_id")["item_id"].apply(list)
    histories = known.groupby("user_id")["item_id"].apply(list)
    users = UserBlock.of(truth.index.to_numpy(), [histories[user] for user in truth.index])
    found = []
    for seed in tqdm(seeds, desc=engine, disable=None):
        with tempfile.TemporaryDirectory() as scratch:
            model = als.fit(TrainingData(rows, seed, Path(scratch)), als.Config(**settings, engine=engine))
            lists, _ = recommend_block(model, users, 10)
        found.append(float(np.nanmean(evaluate_lists(lists, list(truth), [10])["ndcg@10"])))
    rows.unpersist()
    return found


def main(options: argparse.Namespace) -> None:
    spark = get_session(SparkConfig(master="local[2]", driver_memory="4g", shuffle_partitions=4), "bench-als-quality")
    log, seeds = pd.read_csv(options.movielens), list(range(1, options.seeds + 1))
    blocked, mllib = (np.array(ndcg(spark, log, engine, seeds)) for engine in ENGINES)
    apart = abs(float(blocked.mean() - mllib.mean()))
    starts = float(np.sqrt((blocked.var(ddof=1) + mllib.var(ddof=1)) / 2))
    rows = [
        Row(f"NDCG@10, mean of {len(seeds)} starts", float(blocked.mean()), "", "MLlib", float(mllib.mean()),
            float(blocked.mean() / mllib.mean()), f"{BAR:g} apart at most", apart <= BAR),
        Row("how far the means are apart", apart, ""),
        Row("standard deviation of one engine's starts", starts, ""),
    ]  # fmt: skip
    spark.stop()
    finish("als_quality", rows, options.out)


if __name__ == "__main__":
    arguments = parser(__doc__.splitlines()[0])
    files = [ROOT / path for path in load_config(CONFIG).log.path]
    found = next((file for file in files if file.exists()), files[-1])
    arguments.add_argument("--movielens", type=Path, default=found, help="leave_one_out.csv, with its split")
    arguments.add_argument("--seeds", type=int, default=6, help="starts of each engine")
    chosen = arguments.parse_args()
    if not chosen.movielens.exists():
        raise SystemExit(
            f"{chosen.movielens}: no such file; write MovieLens-100k there with a column `split`, or name it"
        )
    main(chosen)
