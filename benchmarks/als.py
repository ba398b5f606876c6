"""Implicit ALS, rank 64: engine `blocked` beside Spark's MLlib and beside the library implicit, on two threads.

The three see the same interactions: 10 M (200 k users × 50 k items) and 0.65 M (70 k × 25 k), with heavy tails. A whole
fit of `blocked` and MLlib starts from Parquet and ends with the factors; Spark's start is not counted, and compiling is
warmed up on a small fit. Growth is measured on 1, 3, 10 and 30 million. Objectives are compared on the smaller data.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from _interactions import draw, write
from _memory import WorkerMemory
from _report import Row, finish, parser
from implicit.cpu.als import AlternatingLeastSquares
from pyspark.ml.recommendation import ALS
from pyspark.sql import SparkSession
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from recsys_spark.config import SparkConfig
from recsys_spark.models import als
from recsys_spark.models.base import TrainingData
from recsys_spark.session import get_session

RANK, ITERATIONS, ALPHA, REGULARIZATION = 64, 15, 1.0, 0.05
LARGE, SMALL = (10_000_000, 200_000, 50_000), (650_000, 70_000, 25_000)
BAR_ITERATION, BAR_IMPLICIT, BAR_FIT, BAR_SLOPE, BAR_OBJECTIVE = 5.0, 1.8, 4.0, 1.05, 0.01


def blocked(spark: SparkSession, path: Path, iterations: int, log: list | None = None) -> tuple[float, float, object]:
    """Return the seconds of a whole fit, the median seconds of an iteration, and the model."""
    times: list[float] = []

    def note(step: int, figures: dict[str, float]) -> None:
        times.append(time.perf_counter())
        if log is not None:
            log.append(figures["objective"])

    config = als.Config(rank=RANK, iterations=iterations, alpha=ALPHA, regularization=REGULARIZATION)
    with tempfile.TemporaryDirectory() as scratch:
        begin = time.perf_counter()
        model = als.fit(TrainingData(spark.read.parquet(str(path)), 1, Path(scratch), log=note), config)
        seconds = time.perf_counter() - begin
    return seconds, float(np.median(np.diff(times))) if iterations > 1 else times[0] - begin, model


def mllib(spark: SparkSession, path: Path, iterations: int) -> tuple[float, object]:
    """Return the seconds of a whole fit, and the model."""
    estimator = ALS(
        rank=RANK, maxIter=iterations, regParam=REGULARIZATION, alpha=ALPHA, implicitPrefs=True, userCol="user_id",
        itemCol="item_id", ratingCol="weight", seed=1, checkpointInterval=10,
    )  # fmt: skip
    begin = time.perf_counter()
    model = estimator.fit(spark.read.parquet(str(path)))
    model.itemFactors.count()
    return time.perf_counter() - begin, model


def implicit_library(user: np.ndarray, item: np.ndarray, weight: np.ndarray, iterations: int) -> float:
    """Return the median seconds of an iteration."""
    matrix = csr_matrix((weight, (user, item)))
    model = AlternatingLeastSquares(
        RANK, regularization=REGULARIZATION, alpha=ALPHA, iterations=iterations, num_threads=2, random_state=1
    )
    times: list[float] = []
    with threadpool_limits(1, "blas"):  # as implicit asks
        model.fit(matrix, show_progress=False, callback=lambda *_: times.append(time.perf_counter()))
    return float(np.median(np.diff(times)))


def objective(user: np.ndarray, item: np.ndarray, weight: np.ndarray, X: np.ndarray, Y: np.ndarray) -> float:
    """The implicit objective of Hu et al. 2008 with regularisation scaled by counts, from its definition."""
    X, Y = X.astype(np.float64), Y.astype(np.float64)
    dot = np.einsum("ed,ed->e", X[user], Y[item])
    everywhere = np.trace((X.T @ X) @ (Y.T @ Y))
    fit = everywhere + ((1 + ALPHA * weight) * (1 - dot) ** 2 - dot**2).sum()
    n_u, n_i = np.bincount(user, minlength=len(X)), np.bincount(item, minlength=len(Y))
    return fit + REGULARIZATION * ((n_u * (X**2).sum(1)).sum() + (n_i * (Y**2).sum(1)).sum())


def of_mllib(model: object, sizes: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return MLlib's factors of users and items as matrices."""
    out = []
    for frame, n in zip((model.userFactors, model.itemFactors), sizes, strict=True):  # type: ignore[attr-defined]
        rows, factors = frame.toPandas(), np.zeros((n, RANK), np.float32)
        factors[rows["id"]] = np.stack(rows["features"])
        out.append(factors)
    return out[0], out[1]


def main(options: argparse.Namespace) -> None:
    config = SparkConfig(master="local[2]", driver_memory="8g", shuffle_partitions=8)
    spark = get_session(config, "bench-als")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        spark.sparkContext.setCheckpointDir(str(root / "checkpoints"))
        warm = write(root / "warm", *draw(50_000, 5_000, 2_000))
        blocked(spark, warm, 2)
        mllib(spark, warm, 2)

        small = draw(*SMALL)
        path = write(root / "small", *small)
        losses: list[float] = []
        ours = sorted(blocked(spark, path, 10, losses) for _ in range(3))[1]
        theirs, model = mllib(spark, path, 10)
        each = implicit_library(*small, 10)
        rows += [
            Row("0.65 M interactions, fit of 10 iterations", ours[0], "s", "MLlib", theirs, theirs / ours[0],
                f"≥ {BAR_FIT}", theirs / ours[0] >= BAR_FIT),
            Row("0.65 M, an iteration", ours[1], "s", "implicit", each, ours[1] / each),
        ]  # fmt: skip
        of_theirs = objective(*small, *of_mllib(model, (SMALL[1] + 1, SMALL[2] + 1)))
        away = losses[9] / of_theirs - 1
        rows.append(
            Row("0.65 M, objective after 10 iterations", losses[9], "", "MLlib", of_theirs, 1 + away,
                f"within {BAR_OBJECTIVE:.0%}", bool(abs(away) <= BAR_OBJECTIVE))
        )  # fmt: skip

        large = draw(*LARGE)
        path = write(root / "large", *large)
        fit, iteration, _ = blocked(spark, path, ITERATIONS)
        each = implicit_library(*large, 5)
        two, seven = (mllib(spark, path, n)[0] for n in (2, 7))
        slow = (seven - two) / 5
        rows += [
            Row("10 M interactions, an iteration", iteration, "s", "MLlib", slow, slow / iteration,
                f"≥ {BAR_ITERATION}", slow / iteration >= BAR_ITERATION),
            Row("10 M interactions, an iteration", iteration, "s", "implicit", each, iteration / each,
                f"≤ {BAR_IMPLICIT}", iteration / each <= BAR_IMPLICIT),
        ]  # fmt: skip
        whole = mllib(spark, path, ITERATIONS)[0] if options.whole else two + (ITERATIONS - 2) * slow
        name = "MLlib" if options.whole else "MLlib (from 2 and 7)"
        rows.append(
            Row("10 M interactions, fit of 15 iterations", fit, "s", name, whole, whole / fit, f"≥ {BAR_FIT}",
                whole / fit >= BAR_FIT)
        )  # fmt: skip

        events, seconds = [1_000_000, 3_000_000, 10_000_000, 30_000_000], []
        for n in events:
            share = n / LARGE[0]
            grown = write(root / "grown", *draw(n, int(LARGE[1] * share), int(LARGE[2] * share**0.5)))
            seconds.append(blocked(spark, grown, 4)[1])
            with WorkerMemory() as memory:
                blocked(spark, grown, 1)
            rows.append(Row(f"{n / 1e6:.0f} M interactions, an iteration", seconds[-1], "s"))
            rows.append(Row(f"{n / 1e6:.0f} M interactions, private memory of a Python worker", memory.mb, "MB"))
        slope = float(np.polyfit(np.log(events), np.log(seconds), 1)[0])
        rows.append(
            Row("slope of log time over log interactions", slope, "", bar=f"≤ {BAR_SLOPE}", holds=slope <= BAR_SLOPE)
        )
        rows.append(Row("memory of the driver's Python", psutil.Process().memory_info().rss / 2**20, "MB"))
    spark.stop()
    finish("als", rows, options.out)


if __name__ == "__main__":
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--whole", action="store_true", help="run MLlib's 15 iterations out (3 minutes more)")
    main(arguments.parse_args())
