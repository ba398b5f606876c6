"""Alternating least squares: one model, two engines that train it.

| file | holds |
|---|---|
| `model.py` | the parameters, and the model: item factors, and the exact answer for any history |
| `kernel.py` | the compiled loops that solve the least squares problems |
| `blocked.py` | engine `blocked`: the kernel in Spark's tasks, one per block |
| `mllib.py` | engine `mllib`: Spark's own |
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from recsys_spark.errors import DataError
from recsys_spark.models.als.model import AlsModel, Config, load
from recsys_spark.models.base import Floats, TrainingData, read_card

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["AlsModel", "Config", "fit", "load", "needs"]

_ENTRIES_PER_BLOCK = 1_000_000
_LARGEST_ID = 2**31 - 2


def needs(config: Config) -> Iterator[str]:
    """Name what `fit` wants beside the interactions."""
    if config.warm_start:
        yield "previous"


def fit(data: TrainingData, config: Config) -> AlsModel:
    """Factorise the training interactions.

    Raises:
        ConfigError: the engine cannot do what is asked.
        DataError: an id is no positive int, a weight is negative or no number; explicit, and nothing is rated.
    """
    value = "weight" if config.implicit else "rating"
    rows = data.interactions.where(f"{value} is not null").selectExpr("user_id", "item_id", f"{value} as value")
    n_users, n_items, entries = _sizes(rows, config, value)
    rows = rows.selectExpr("int(user_id) user_id", "int(item_id) item_id", "float(value) value")
    blocks = config.blocks or max(8, entries // _ENTRIES_PER_BLOCK)
    engine, needed = config.engine, max(n_users, n_items) * config.rank * 4 / 1e9
    if engine == "blocked" and needed > config.max_broadcast_gb:
        say = (
            f"the larger side's factors take {needed:.1f} GB, models.als.max_broadcast_gb is {config.max_broadcast_gb}"
        )
        print(f"warning: {say}: engine mllib takes over", file=sys.stderr)
        engine = "mllib"
    if engine == "mllib":
        from recsys_spark.models.als import mllib  # here, because serving a model must not need Spark

        factors, known = mllib.factorise(rows, config, blocks, data.seed)
    else:
        from recsys_spark.models.als import blocked

        start = _previous(data, config)
        factors, known = blocked.factorise(rows, (n_users, n_items), config, blocks, start, data)
    return AlsModel(factors, known, config)


def _sizes(rows: DataFrame, config: Config, value: str) -> tuple[int, int, int]:
    """Return n_users, n_items and the number of rows, all of which make sense."""
    from pyspark.sql import functions as F

    x = F.col("value")
    wrong = F.isnan(x) | (F.abs(x) == float("inf"))
    if config.implicit:
        wrong |= x < 0
    found = rows.agg(
        F.max("user_id").alias("user"), F.max("item_id").alias("item"), F.count_if(wrong).alias("wrong"),
        F.least(F.min("user_id"), F.min("item_id")).alias("least"), F.count("*").alias("n"),
    ).first()  # fmt: skip
    if not found.n:
        if not config.implicit:
            raise DataError("models.als.implicit is false but no training interaction has a rating; set it to true")
        raise DataError("no interaction to train on")
    if found.wrong:
        raise DataError(f"{found.wrong} interactions have a {value} that is negative or no number; ALS cannot use them")
    if found.least < 0 or max(found.user, found.item) > _LARGEST_ID:
        raise DataError(
            f"ids reach from {found.least} to {max(found.user, found.item)}: dense ids are 1 to {_LARGEST_ID}"
        )
    return found.user + 1, found.item + 1, found.n


def _previous(data: TrainingData, config: Config) -> Floats | None:
    """Return the item factors of the night before, if there are any of this rank."""
    if data.previous is None:
        if config.warm_start:
            print("warning: als: no earlier night to start from with these ids; starts at random", file=sys.stderr)
        return None
    if read_card(data.previous)["config"]["rank"] != config.rank:
        print("warning: als: the night before had another rank; starts at random", file=sys.stderr)
        return None
    return np.load(data.previous / "factors.npy")
