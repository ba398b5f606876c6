"""Most popular items; the same list for everyone, less what each has seen."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from recsys_spark.config import Section
from recsys_spark.models.base import NO_OPINION, Floats, TrainingData, UserBlock, read_card, write_card


class Config(Section):
    """How popularity is counted."""

    by: Literal["users", "weight"] = "users"
    """`users` counts who interacted with an item, `weight` sums the interactions' weights."""
    damping: float = Field(10.0, ge=0)
    """Ratings at the global mean that are added to each item's own before its mean is taken."""


class Popularity:
    """Score = popularity; rating = the item's damped mean rating (Funk 2006)."""

    name = "popularity"
    dot_product = False

    def __init__(self, counts: Floats, ratings: Floats) -> None:
        """Take the popularity and the mean rating of every item, [n_items] each; NaN where none is known."""
        self.counts = counts
        self.ratings = ratings
        self.n_items = len(counts)
        self.rates = bool(np.isfinite(ratings).any())

    def score(self, users: UserBlock) -> Floats:
        scores = np.where(self.counts > 0, self.counts, NO_OPINION)
        return np.tile(scores, (len(users), 1))

    def rate(self, users: UserBlock) -> Floats:
        return np.tile(self.ratings, (len(users), 1))

    def save(self, path: Path) -> None:
        np.savez(path / "popularity.npz", counts=self.counts, ratings=self.ratings)
        write_card(path, self.name, n_items=self.n_items)

    @classmethod
    def load(cls, path: Path) -> Popularity:
        read_card(path)
        with np.load(path / "popularity.npz") as arrays:
            return cls(arrays["counts"], arrays["ratings"])


def fit(data: TrainingData, config: Config) -> Popularity:
    """Count the training interactions."""
    from pyspark.sql import functions as F  # here, because serving a model must not need Spark

    per_item = data.interactions.groupBy("item_id").agg(
        F.count("*").alias("users"), F.sum("weight").alias("weight"), F.sum("rating").alias("sum"),
        F.count("rating").alias("n"),
    ).toPandas()  # fmt: skip
    n_items = int(per_item["item_id"].max()) + 1
    item = per_item["item_id"].to_numpy()
    counts = np.zeros(n_items, np.float32)
    counts[item] = per_item[config.by]

    ratings = np.full(n_items, np.nan, np.float32)
    rated = int(per_item["n"].sum())
    if rated:
        mean = per_item["sum"].sum() / rated
        total = per_item["sum"].fillna(0).to_numpy() + config.damping * mean
        of = per_item["n"].to_numpy() + config.damping
        ratings[:] = mean
        ratings[item[of > 0]] = total[of > 0] / of[of > 0]
    return Popularity(counts, ratings)


load = Popularity.load
