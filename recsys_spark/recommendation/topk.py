"""One top-K for every model, over Spark partitions: score a block, mask, select.

Memory is bounded by block_users x items, never by users x items. Ties go to the smaller item id, so the
lists do not depend on how the users were dealt out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql.types import ArrayType, FloatType, IntegerType, StructField, StructType

from recsys_spark import models
from recsys_spark.models.base import UserBlock
from recsys_spark.recommendation.select import blocks, recommend_block

TOP_K = StructType(
    [
        StructField("user_id", IntegerType()),
        StructField("items", ArrayType(IntegerType())),
        StructField("scores", ArrayType(FloatType())),
    ]
)
"""One row per user; lists are shorter than k where fewer items can be recommended, possibly empty."""


def read_block(rows: pd.DataFrame) -> UserBlock:
    """Turn rows of the `histories` table into a block."""
    return UserBlock.of(*(rows[c].to_numpy() for c in ("user_id", "items", "weights", "ratings")))


def top_k(histories: DataFrame, model_path: Path, k: int, block_users: int) -> DataFrame:
    """Recommend k unseen items to every user, with the columns of `TOP_K`.

    Args:
        histories: rows of the `histories` table for one moment.
        model_path: a saved model, on a disk that the executors share; each loads it once.
        block_users: users scored at a time.
    """

    def recommend(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        model = models.load(model_path)
        for rows in batches:
            for users in blocks(read_block(rows), block_users):
                items, scores = recommend_block(model, users, k)
                n = (items > 0).sum(axis=1)
                yield pd.DataFrame(
                    {
                        "user_id": users.user_id.astype(np.int32),
                        "items": [row[:m].astype(np.int32) for row, m in zip(items, n, strict=True)],
                        "scores": [row[:m] for row, m in zip(scores, n, strict=True)],
                    }
                )

    return histories.select("user_id", "items", "weights", "ratings").mapInPandas(recommend, TOP_K)
