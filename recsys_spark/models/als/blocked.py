"""Engine `blocked`: each half-iteration, a Spark task per block maps the other side's factors and solves its rows.

Nothing travels but the file names and a D × D matrix: interactions and factors are files on the shared disk, which a
machine's tasks map into memory once between them. Factors are written in generations, and a task writes what follows
from the generation before: run again, on whatever executor, it writes the same bytes.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from pyspark import SparkContext
from pyspark.sql import DataFrame
from threadpoolctl import threadpool_limits
from tqdm import trange

from recsys_spark.models.als.kernel import descend, solve_exactly
from recsys_spark.models.als.model import Config
from recsys_spark.models.base import Floats, TrainingData
from recsys_spark.models.blocks import Extent, Side, pack
from recsys_spark.session import deal, task_threads

_PAGE = 4_096


def factorise(
    rows: DataFrame, extent: Extent, config: Config, blocks: int, start: Floats | None, data: TrainingData
) -> tuple[Floats, np.ndarray]:
    """Return the item factors [n_items, D] and which of them were trained [n_items].

    Args:
        rows: `user_id`, `item_id` and `value`.
        start: item factors to begin with; rows beyond them, or of 0, are drawn.
    """
    folder = data.scratch.absolute()
    # A block of factors begins on a page of its own: tasks on several machines may write theirs into one file.
    unit = _PAGE // math.gcd(_PAGE, 4 * config.rank)
    users, items = Side.both(extent, blocks, folder, unit)
    pack(rows, users, items)
    known = np.concatenate([np.diff(items.csr(block)[0]) > 0 for block in range(items.blocks)])
    gram = _begin(users, items, known, start, config.rank, data.seed)
    spark = rows.sparkSession.sparkContext
    for iteration in trange(1, config.iterations + 1, desc="ALS", unit="iteration", disable=None):
        gram, _, penalty = _half(spark, users, items, config, gram, iteration)
        gram, objective, _ = _half(spark, items, users, config, gram, iteration)
        data.log(iteration, {"objective": objective + penalty})
    factors = _map(items, config.iterations, config.rank)[: items.rows].copy()
    return factors, known[: items.rows]


def _begin(users: Side, items: Side, known: np.ndarray, start: Floats | None, rank: int, seed: int) -> np.ndarray:
    """Write generation 0: users at 0, items with entries of length 1 in a random direction. Return Y'Y."""
    drawn = np.random.default_rng(seed).standard_normal((len(known), rank), np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    if start is not None:
        rows = min(len(start), len(drawn))
        warm = start[:rows].any(axis=1)
        drawn[:rows][warm] = start[:rows][warm]
    drawn[~known] = 0
    drawn.tofile(_path(items, 0))
    _reserve(users, 0, rank)
    wide = drawn.astype(np.float64)
    return wide.T @ wide


def _half(
    spark: SparkContext, side: Side, other: Side, config: Config, gram: np.ndarray, iteration: int
) -> tuple[np.ndarray, float, float]:
    """Solve one side; return its X'X, the objective without the other side's penalty, and its own penalty."""
    # users look at the items of the iteration before, items at the users of this one
    looks_at = iteration - 1 if side.name == "users" else iteration
    _reserve(side, iteration, config.rank)
    threads = task_threads(spark)

    def solve(block: int) -> tuple[np.ndarray, float, float]:
        with threadpool_limits(threads):
            return _solve_block(side, _map(other, looks_at, config.rank), config, gram, iteration, block, threads)

    found = deal(spark, range(side.blocks)).map(solve).collect()
    _path(side, iteration - 1).unlink()
    grams, objectives, penalties = zip(*found, strict=True)
    return np.sum(grams, axis=0), sum(objectives), sum(penalties)


def _solve_block(
    side: Side, others: np.ndarray, config: Config, gram: np.ndarray, iteration: int, block: int, threads: int
) -> tuple[np.ndarray, float, float]:
    """Solve a block, write it to its place in the generation's file, and return its share of `_half`'s answer."""
    indptr, indices, values = side.csr(block)
    first, height = block * side.height, side.height
    solved = _map(side, iteration - 1, config.rank)[first : first + height].copy()
    ridge, scaled = config.regularization, config.scale_regularization
    if config.implicit:
        extra = np.float32(config.alpha) * values
        gram32 = gram.astype(np.float32)
        constant = float(len(extra) + extra.sum(dtype=np.float64))  # sum of c over the entries, where p = 1

        def run(at: slice) -> Any:
            return descend(
                indptr[at.start : at.stop + 1], indices, extra, others, gram32, ridge, scaled, config.cg_steps,
                solved[at],
            )  # fmt: skip
    else:
        ones, nothing = np.ones_like(values), np.zeros_like(gram)
        constant = float((values.astype(np.float64) ** 2).sum())

        def run(at: slice) -> Any:
            return solve_exactly(
                indptr[at.start : at.stop + 1], indices, ones, values, others, nothing, ridge, scaled, solved[at]
            )

    parts = [slice(height * t // threads, height * (t + 1) // threads) for t in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        objectives, penalties = zip(*pool.map(run, parts), strict=True)
    _write(_path(side, iteration), solved, first * config.rank * solved.itemsize)
    wide = solved.astype(np.float64)
    return wide.T @ wide, constant + sum(objectives), sum(penalties)


def _path(side: Side, generation: int) -> Path:
    return side.folder / f"{side.name}-{generation}.f32"


def _map(side: Side, generation: int, rank: int) -> np.ndarray:
    """Map all factors of a generation, float32 [blocks * height, D]."""
    shape = (side.blocks * side.height, rank)
    # "c": the kernels are compiled for arrays that could be written to
    return np.asarray(np.memmap(_path(side, generation), np.float32, "c", shape=shape))


def _reserve(side: Side, generation: int, rank: int) -> None:
    with open(_path(side, generation), "wb") as file:
        file.truncate(side.blocks * side.height * rank * 4)


def _write(path: Path, rows: np.ndarray, offset: int) -> None:
    file = os.open(path, os.O_WRONLY)
    try:
        view = rows.data.cast("B")
        while view:
            written = os.pwrite(file, view, offset)
            view, offset = view[written:], offset + written
    finally:
        os.close(file)
