"""The former name of `recsys_spark.dataset.feeds.pairs`, for `build.py` until it writes feeds by kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from recsys_spark.config import Config, DatasetConfig
from recsys_spark.dataset.feeds.pairs import write_pairs


def write_feed(
    spark: SparkSession, interactions: DataFrame, config: DatasetConfig, seed: int, path: Path
) -> dict[str, Any]:
    """Write the feed of pairs, with files enough for the default ranks and reader threads."""
    whole = Config.model_validate({"name": "feed", "root": ".", "seed": seed, "log": {"path": "."}})
    return write_pairs(spark, interactions, whole.model_copy(update={"dataset": config}), path)
