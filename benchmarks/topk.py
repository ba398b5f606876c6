"""Top-20 of 25 k items for 70 k users, without what each has seen: beside Spark's MLlib and the library implicit.

All score with factors of rank 64. Ours folds every history in anew and writes the lists to Parquet, as a night does.
MLlib is asked for 20 items and an anti-join takes the seen ones out, which leaves lists that are too short: to fill
them it would have to be asked for 20 + the longest history. implicit has its users' factors at hand and keeps the lists
in memory. Starting Spark is not counted, and everything is warmed up on some of the users.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _interactions import draw, write
from _memory import WorkerMemory
from _report import Row, finish, parser
from implicit.cpu.als import AlternatingLeastSquares
from pyspark.ml.recommendation import ALS
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from recsys_spark.config import SparkConfig
from recsys_spark.models import als
from recsys_spark.models.base import TrainingData
from recsys_spark.recommendation.index import build
from recsys_spark.recommendation.topk import sample_users, top_k
from recsys_spark.session import get_session

ENTRIES, USERS, ITEMS, K, RANK, BLOCK = 650_000, 70_000, 25_000, 20, 64, 1_024
LARGE, INDEXED_USERS, TASTES = (5_000_000, 200_000, 1_000_000), 10_000, 500
BAR_MLLIB, BAR_IMPLICIT = 5.0, 1.5


def write_histories(folder: Path, user: np.ndarray, item: np.ndarray, weight: np.ndarray, files: int = 8) -> Path:
    """Write a row per user, as the table of histories has them."""
    folder.mkdir(parents=True)
    order = np.lexsort((item, user))
    users, starts = np.unique(user[order], return_index=True)
    offsets = np.append(starts, len(user))
    for part, of in enumerate(np.array_split(np.arange(len(users)), files)):
        rows = order[offsets[of[0]] : offsets[of[-1] + 1]]
        cuts = pa.array(offsets[of[0] : of[-1] + 2] - offsets[of[0]], pa.int32())
        ratings = np.full(len(rows), np.nan, np.float32)
        lists = {"items": item[rows], "weights": weight[rows], "ratings": ratings}
        columns = {name: pa.ListArray.from_arrays(cuts, pa.array(values)) for name, values in lists.items()}
        pq.write_table(pa.table({"user_id": pa.array(users[of], pa.int32()), **columns}), folder / f"{part}.parquet")
    return folder


def timed(action: Callable[[], object], times: int = 3) -> float:
    """Return the median seconds."""
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))


def index_rows(spark: SparkSession, root: Path) -> list[Row]:
    """Measure the index on a catalogue of a million items, whose factors ALS has learnt.

    Of everyone's interactions four in five are of one of 500 tastes: factors without groups have no use for lists.
    """
    user, item, weight = draw(*LARGE)
    own = np.random.default_rng(3).random(len(user)) < 0.8
    item = np.where(own, np.maximum(item - item % TASTES + user % TASTES, 1), item).astype(np.int32)
    first = np.unique(user.astype(np.int64) << 32 | item, return_index=True)[1]
    user, item, weight = user[first], item[first], weight[first]
    frame = spark.read.parquet(str(write(root / "large", user, item, weight)))
    (root / "large-scratch").mkdir()
    model = als.fit(TrainingData(frame, 1, root / "large-scratch"), als.Config(rank=RANK, iterations=3))
    (root / "large-model").mkdir()
    model.save(root / "large-model")
    few = user <= INDEXED_USERS
    histories = write_histories(root / "large-histories", user[few], item[few], weight[few])
    begin = time.perf_counter()
    measured = build(model, sample_users(histories, 1_000), K, 0.95, root / "items.ivf")
    built = time.perf_counter() - begin
    runs = iter(range(100))

    def lists(index: Path | None) -> pa.Table:
        out = root / f"large-lists-{next(runs)}"
        return top_k(spark, histories, root / "large-model", K, BLOCK, out, index=index).toArrow()

    truth = lists(None)
    scanned = timed(lambda: lists(None))
    rows = [Row("1 M items: building the index", built, "s")]
    if measured is None:
        return [*rows, Row("1 M items: top-20 by scanning; no index reaches a recall of 0.95", scanned, "s")]
    found = lists(root / "items.ivf")
    indexed = timed(lambda: lists(root / "items.ivf"))
    of = dict(zip(*(truth.column(name).to_pylist() for name in ("user_id", "items")), strict=True))
    shares = [
        len(set(items) & set(of[user])) / len(of[user])
        for user, items in zip(*(found.column(name).to_pylist() for name in ("user_id", "items")), strict=True)
    ]
    return [
        *rows,
        Row("1 M items: top-20 by the index", indexed, "s", "by scanning", scanned, scanned / indexed),
        Row(f"1 M items: recall@{K} with {measured.probes} of {measured.lists} lists", float(np.mean(shares)), "",
            "on the sample", measured.recall, float(np.mean(shares)) / measured.recall),
    ]  # fmt: skip


def main(options: argparse.Namespace) -> None:
    config = SparkConfig(master="local[2]", driver_memory="8g", shuffle_partitions=8)
    spark: SparkSession = get_session(config, "bench-topk")
    user, item, weight = draw(ENTRIES, USERS, ITEMS)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        spark.sparkContext.setCheckpointDir(str(root / "checkpoints"))
        frame = spark.read.parquet(str(write(root / "interactions", user, item, weight)))
        histories = write_histories(root / "histories", user, item, weight)
        few = user <= USERS // 20
        some = write_histories(root / "some", user[few], item[few], weight[few])

        (root / "scratch").mkdir()
        model = als.fit(TrainingData(frame, 1, root / "scratch"), als.Config(rank=RANK, iterations=3))
        (root / "model").mkdir()
        model.save(root / "model")
        runs = iter(range(100))

        def ours(of: Path) -> int:
            out = root / f"lists-{next(runs)}"
            return top_k(spark, of, root / "model", K, BLOCK, out).count()

        ours(some)
        own = timed(lambda: ours(histories))
        with WorkerMemory() as memory:
            ours(histories)

        spark_model = ALS(
            rank=RANK, maxIter=1, implicitPrefs=True, userCol="user_id", itemCol="item_id", ratingCol="weight", seed=1
        ).fit(frame)  # fmt: skip
        seen = frame.select("user_id", "item_id")

        def mllib(filtered: bool) -> None:
            rows = spark_model.recommendForAllUsers(K).select("user_id", F.explode("recommendations").alias("r"))
            rows = rows.select("user_id", F.col("r.item_id").alias("item_id"), F.col("r.rating").alias("score"))
            if filtered:
                rows = rows.join(seen, ["user_id", "item_id"], "left_anti")
            rows.write.mode("overwrite").parquet(str(root / "mllib"))

        spark_model.recommendForUserSubset(frame.select("user_id").where("user_id < 500").distinct(), K).count()
        plain, filtered = (timed(lambda f=f: mllib(f), 1) for f in (False, True))

        matrix = csr_matrix((weight, (user, item)), shape=(USERS + 1, ITEMS + 1))
        library = AlternatingLeastSquares(RANK, num_threads=2, iterations=1, random_state=1)
        with threadpool_limits(1, "blas"):
            library.fit(matrix, show_progress=False)
            ids = np.unique(user)
            library.recommend(ids[:1_000], matrix[ids[:1_000]], N=K)
            theirs = timed(lambda: library.recommend(ids, matrix[ids], N=K, filter_already_liked_items=True))
        rows = [
            Row("top-20, seen items out", own, "s", "MLlib, anti-join", filtered, filtered / own, f"≥ {BAR_MLLIB}",
                filtered / own >= BAR_MLLIB),
            Row("top-20, seen items out", own, "s", "MLlib, unfiltered", plain, plain / own),
            Row("top-20, seen items out", own, "s", "implicit", theirs, own / theirs, f"≤ {BAR_IMPLICIT}",
                own / theirs <= BAR_IMPLICIT),
            Row("users a second", len(np.unique(user)) / own, "users/s"),
            Row("private memory of a Python worker", memory.mb, "MB"),
        ]  # fmt: skip
        rows += index_rows(spark, root)
    spark.stop()
    finish("topk", rows, options.out)


if __name__ == "__main__":
    main(parser(__doc__.splitlines()[0]).parse_args())
