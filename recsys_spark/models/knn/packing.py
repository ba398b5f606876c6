"""The training interactions of a neighbourhood model: checked, capped, and packed into files by Spark's tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.models.base import TrainingData
from recsys_spark.models.blocks import Side, check, pack
from recsys_spark.models.knn.similarity import Similarity

_ENTRIES_PER_BLOCK = 250_000


def packed(data: TrainingData, config: Similarity) -> tuple[Side, Side]:
    """Pack the interactions, and return the users and the items.

    Raises:
        DataError: there are none, an id is no positive int, a weight is negative or no number.
    """
    value = "weight" if config.use_weights else "1"
    rows = data.interactions.selectExpr("user_id", "item_id", f"float({value}) value")
    rows, extent = check(rows, "weight", "set use_weights to false")
    if config.max_user_items is not None:
        rows = _capped(rows, config.max_user_items, data.seed)
    blocks = extent.blocks(entries=_ENTRIES_PER_BLOCK, least=4)
    users, items = Side.both(extent, blocks, data.scratch.absolute())
    pack(rows, users, items)
    return users, items


def _capped(rows: DataFrame, most: int, seed: int) -> DataFrame:
    """Leave `most` items to each user, drawn by a seeded hash; only the rows of users with more are shuffled."""
    heavy = rows.groupBy("user_id").count().where(F.col("count") > most).select("user_id").localCheckpoint()
    if heavy.isEmpty():
        return rows
    drawn = Window.partitionBy("user_id").orderBy(F.xxhash64("user_id", "item_id", F.lit(seed)), "item_id")
    theirs = rows.join(F.broadcast(heavy), "user_id").withColumn("place", F.row_number().over(drawn))
    others = rows.join(F.broadcast(heavy), "user_id", "left_anti")
    return others.unionByName(theirs.where(F.col("place") <= most).drop("place"))


def joined(side: Side) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all blocks of a side as one CSR: indptr [rows + 1], ids of the other side [E], values [E]."""
    indptrs, indices, values = zip(*(side.csr(block) for block in range(side.blocks)), strict=True)
    lengths = np.concatenate([np.diff(indptr) for indptr in indptrs])[: side.rows]
    return np.concatenate([[0], np.cumsum(lengths)]), np.concatenate(indices), np.concatenate(values)


def write(folder: Path, name: str, *arrays: np.ndarray) -> None:
    """Write arrays for `read`: the tasks of a machine map them into memory once between them."""
    for part, array in enumerate(arrays):
        np.save(folder / f"{name}-{part}.npy", array)


def read(folder: Path, name: str) -> list[np.ndarray]:
    """Map the arrays that `write` wrote, in the same order."""
    files = sorted(folder.glob(f"{name}-?.npy"))
    # "c": the kernels are compiled for arrays that could be written to
    return [np.asarray(np.load(file, mmap_mode="c")) for file in files]
