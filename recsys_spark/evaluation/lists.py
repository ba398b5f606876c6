"""Metrics of lists that stand in a table, whoever made them: published ones, or another system's.

Tasks read the Parquet files themselves, as top-K does: sending a million lists of a hundred items through the JVM takes
several times as long as all metrics do.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from recsys_spark.evaluation.metrics.hits import Ints, Truth
from recsys_spark.evaluation.metrics.ranking import evaluate_lists
from recsys_spark.session import deal

_BLOCK_USERS = 2_048
Totals = dict[str, tuple[float, int]]
"""By metric the sum over users, and how many had an opinion."""


def mean_metrics(spark: SparkSession, lists: Path, ks: list[int]) -> dict[str, float]:
    """Return the mean of every ranking metric at every cut-off over the users who have an opinion.

    Args:
        lists: folder of Parquet files with `items` (list of int, best first) and `held_out` (list of int, the truth).

    A task sums the users of a row group, in blocks, so that memory does not grow with the users. NaN where nobody has a
    truth.
    """
    files = sorted(lists.glob("*.parquet"))
    groups = [(file, group) for file in files for group in range(pq.ParquetFile(file).num_row_groups)]
    total: Totals = {}
    for part in deal(spark.sparkContext, groups).map(lambda task: _totals(task[0], task[1], ks)).collect():
        _add(total, part)
    return {name: value / users if users else float("nan") for name, (value, users) in total.items()}


def _totals(file: Path, group: int, ks: list[int]) -> Totals:
    total: Totals = {}
    for block in pq.ParquetFile(file).iter_batches(_BLOCK_USERS, [group], ["items", "held_out"]):
        values = evaluate_lists(ranked_matrix(block["items"], max(ks)), truth_of(block["held_out"]), ks)
        _add(total, {name: (float(np.nansum(v)), int(np.isfinite(v).sum())) for name, v in values.items()})
    return total


def _add(total: Totals, part: Totals) -> None:
    for name, (value, users) in part.items():
        before = total.get(name, (0.0, 0))
        total[name] = before[0] + value, before[1] + users


def ranked_matrix(lists: pa.ListArray, k: int) -> Ints:
    """The first k items of B lists, 0 behind the end of a shorter one: `[B, k]`.

    >>> ranked_matrix(pa.array([[3, 1, 2], [5], None]), 2).tolist()
    [[3, 1], [5, 0], [0, 0]]
    """
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    if len(lengths) and (lengths == lengths[0]).all():
        whole: Ints = flat.reshape(len(lengths), -1)[:, :k]
        return whole
    starts = np.cumsum(lengths) - lengths
    rank = np.arange(k)
    listed = rank < lengths[:, None]
    ranked = np.zeros(listed.shape, flat.dtype)
    ranked[listed] = flat[(starts[:, None] + rank)[listed]]
    return ranked


def truth_of(lists: pa.ListArray) -> Truth:
    """Read lists of relevant items as they lie in memory; no list is an empty one."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Truth(offsets, lists.flatten().to_numpy(zero_copy_only=False))
