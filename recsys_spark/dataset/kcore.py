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
        The surviving rows, persisted. Possibly none: a log can be too thin for its k.
    """
    kept = pairs.persist()
    count = kept.count()
    while k > 1:
        smaller = _drop_rare(_drop_rare(kept, "user_id", k), "item_id", k).persist()
        left = smaller.count()
        kept.unpersist()
        kept = smaller
        if left == count:
            break
        count = left
    return kept


def _drop_rare(pairs: DataFrame, column: str, k: int) -> DataFrame:
    rare = pairs.groupBy(column).agg(F.count("*").alias("n")).where(F.col("n") < k).select(column)
    return pairs.join(rare, column, "left_anti")
