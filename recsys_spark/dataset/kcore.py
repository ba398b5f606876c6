"""The k-core: drop users and items with fewer than k interactions until none is left to drop."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F


def k_core(pairs: DataFrame, k: int) -> DataFrame:
    """Return the largest subset in which every user and every item stands in at least k rows.

    Args:
        pairs: one row per (user_id, item_id).
        k: least rows; 0 or 1 keeps everything.

    Returns:
        The surviving rows, checkpointed. Possibly none: a log can be too thin for its k.
    """
    # A checkpoint, not a cache: a round reads its input four times, so plans that keep their lineage grow
    # fourfold by each round, and a dozen of them are more than a driver can hold.
    kept = pairs.localCheckpoint()
    count = kept.count()
    while k > 1:
        kept = _drop_rare(_drop_rare(kept, "user_id", k), "item_id", k).localCheckpoint()
        left = kept.count()
        if left == count:
            break
        count = left
    return kept


def _drop_rare(pairs: DataFrame, column: str, k: int) -> DataFrame:
    rare = pairs.groupBy(column).agg(F.count("*").alias("n")).where(F.col("n") < k).select(column)
    return pairs.join(rare, column, "left_anti")
