"""Engine `mllib`: Spark's own ALS."""

from __future__ import annotations

import numpy as np
from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame

from recsys_spark.errors import ConfigError
from recsys_spark.models.als.model import Config
from recsys_spark.models.base import Floats


def factorise(rows: DataFrame, config: Config, blocks: int, seed: int) -> tuple[Floats, np.ndarray]:
    """Return the item factors [n_items, D] and which of them were trained [n_items].

    The session needs a checkpoint folder, or MLlib ignores its checkpoint interval and the lineage of the
    factors grows with every iteration.

    Args:
        rows: `user_id`, `item_id` and `value`.
    """
    if not config.scale_regularization:
        raise ConfigError("models.als.scale_regularization: MLlib always scales it; set engine to blocked")
    als = ALS(
        rank=config.rank, maxIter=config.iterations, regParam=config.regularization, alpha=config.alpha,
        implicitPrefs=config.implicit, userCol="user_id", itemCol="item_id", ratingCol="value", seed=seed,
        numUserBlocks=blocks, numItemBlocks=blocks, checkpointInterval=10,
    )  # fmt: skip
    items = als.fit(rows).itemFactors.toPandas()
    n_items = int(items["id"].max()) + 1
    factors = np.zeros((n_items, config.rank), np.float32)
    factors[items["id"]] = np.stack(items["features"].to_numpy())
    known = np.zeros(n_items, bool)
    known[items["id"]] = True
    return factors, known
