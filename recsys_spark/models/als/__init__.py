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

import numpy as np

from recsys_spark.errors import DataError
from recsys_spark.models.als.model import AlsModel, Config, load
from recsys_spark.models.base import Floats, TrainingData, read_card

__all__ = ["AlsModel", "Config", "fit", "load", "needs"]


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
    from recsys_spark.models.blocks import check  # here, because serving a model must not need Spark

    value = "weight" if config.implicit else "rating"
    rows = data.interactions.where(f"{value} is not null").selectExpr("user_id", "item_id", f"{value} as value")
    if not config.implicit and rows.isEmpty():
        raise DataError("models.als.implicit is false but no training interaction has a rating; set it to true")
    rows, extent = check(rows, value, "ALS cannot use them", signed=not config.implicit)
    blocks = extent.blocks(config.blocks)
    engine, needed = config.engine, max(extent.users, extent.items) * config.rank * 4 / 1e9
    if engine == "blocked" and needed > config.max_broadcast_gb:
        say = (
            f"the larger side's factors take {needed:.1f} GB, models.als.max_broadcast_gb is {config.max_broadcast_gb}"
        )
        print(f"warning: {say}: engine mllib takes over", file=sys.stderr)
        engine = "mllib"
    if engine == "mllib":
        from recsys_spark.models.als import mllib

        factors, known = mllib.factorise(rows, config, blocks, data.seed)
    else:
        from recsys_spark.models.als import blocked

        start = _previous(data, config)
        factors, known = blocked.factorise(rows, extent, config, blocks, start, data)
    return AlsModel(factors, known, config)


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
