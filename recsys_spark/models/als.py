"""Alternating least squares on Spark's MLlib, with exact fold-in of any history.

Hu, Koren & Volinsky 2008, "Collaborative filtering for implicit feedback datasets", with the
regularisation scaled by each user's number of interactions as MLlib does (Zhou et al. 2008). The model
keeps the item side only: a user's vector is the closed-form answer for the history at hand, which for
the training history is MLlib's own user factor, and which needs no retraining for a new user or day.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from recsys_spark.config import Section
from recsys_spark.errors import DataError
from recsys_spark.models.base import NO_OPINION, Floats, UserBlock, read_card, write_card

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


class Config(Section):
    """Parameters of the factorisation."""

    rank: int = Field(64, ge=1)
    """Length D of a factor."""
    iterations: int = Field(15, ge=1)
    regularization: float = Field(0.05, ge=0)
    """Multiplied by the number of a user's or item's interactions."""
    alpha: float = Field(1.0, gt=0)
    """Confidence in an interaction of weight w is 1 + alpha w (implicit only)."""
    implicit: bool = True
    """False: factorise the ratings instead, and predict them."""
    blocks: int = Field(8, ge=1)
    """Partitions of the users and of the items."""


class AlsModel:
    """Scores are dot products of folded-in user vectors and item factors."""

    name = "als"
    dot_product = True

    def __init__(self, factors: Floats, known: np.ndarray, config: Config) -> None:
        """Take the item factors [n_items, D] and which rows of them were trained [n_items]."""
        self.factors = factors
        self.known = known
        self.config = config
        self.n_items = len(factors)
        self.rates = not config.implicit
        self._gram = factors[known].T.astype(np.float64) @ factors[known]

    def item_vectors(self) -> Floats:
        return self.factors

    def user_vectors(self, users: UserBlock) -> Floats:
        """Solve each user's least squares problem: [B, D], zeros for a history without a known item.

        Implicit: (Y'Y + Y_u' (C_u - I) Y_u + reg n_u I) x = Y_u' c_u with c = 1 + alpha w over the user's
        items; explicit: (Y_u' Y_u + reg n_u I) x = Y_u' r_u over the rated ones.
        """
        usable = (users.items < self.n_items) & self.known[np.minimum(users.items, self.n_items - 1)]
        if not self.config.implicit:
            usable &= np.isfinite(users.ratings)
        vectors = np.zeros((len(users), self.factors.shape[1]), np.float32)
        identity = np.eye(self.factors.shape[1])
        for b in range(len(users)):
            h = slice(users.offsets[b], users.offsets[b + 1])
            mine = usable[h]
            n = int(mine.sum())
            if not n:
                continue
            y = self.factors[users.items[h][mine]].astype(np.float64)  # [n, D]
            ridge = self.config.regularization * n * identity
            if self.config.implicit:
                extra = self.config.alpha * np.abs(users.weights[h][mine].astype(np.float64))
                left = self._gram + (y * extra[:, None]).T @ y + ridge
                right = y.T @ (1 + extra)
            else:
                left = y.T @ y + ridge
                right = y.T @ users.ratings[h][mine].astype(np.float64)
            vectors[b] = np.linalg.solve(left, right)
        return vectors

    def score(self, users: UserBlock) -> Floats:
        vectors = self.user_vectors(users)
        scores = vectors @ self.factors.T  # [B, n_items]
        scores[:, ~self.known] = NO_OPINION
        scores[~vectors.any(axis=1)] = NO_OPINION
        return scores

    rate = score

    def save(self, path: Path) -> None:
        np.save(path / "factors.npy", self.factors)
        np.save(path / "known.npy", self.known)
        write_card(path, self.name, n_items=self.n_items, config=self.config.model_dump())


def load(path: Path) -> AlsModel:
    """Read a saved model."""
    config = Config.model_validate(read_card(path)["config"])
    return AlsModel(np.load(path / "factors.npy"), np.load(path / "known.npy"), config)


def fit(interactions: DataFrame, config: Config, seed: int) -> AlsModel:
    """Factorise training interactions: rows of `user_id`, `item_id`, `weight` and `rating`.

    The session needs a checkpoint folder, or MLlib ignores its checkpoint interval and the lineage of the
    factors grows with every iteration.

    Raises:
        DataError: explicit, and nothing is rated.
    """
    from pyspark.ml.recommendation import ALS  # here, because serving a model must not need Spark

    value = "weight" if config.implicit else "rating"
    rows = interactions.where(f"{value} is not null").select("user_id", "item_id", value)
    if not config.implicit and rows.isEmpty():
        raise DataError("models.als.implicit is false but no training interaction has a rating; set it to true")
    als = ALS(
        rank=config.rank, maxIter=config.iterations, regParam=config.regularization, alpha=config.alpha,
        implicitPrefs=config.implicit, userCol="user_id", itemCol="item_id", ratingCol=value, seed=seed,
        numUserBlocks=config.blocks, numItemBlocks=config.blocks, checkpointInterval=10,
    )  # fmt: skip
    items = als.fit(rows).itemFactors.toPandas()
    n_items = int(items["id"].max()) + 1
    factors = np.zeros((n_items, config.rank), np.float32)
    factors[items["id"]] = np.stack(items["features"].to_numpy())
    known = np.zeros(n_items, bool)
    known[items["id"]] = True
    return AlsModel(factors, known, config)
