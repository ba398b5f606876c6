"""Most popular items, of all time or lately; the same list for everyone, less what each has seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from recsys_spark.config import Section
from recsys_spark.errors import DataError
from recsys_spark.models.base import NO_OPINION, Floats, TrainingData, UserBlock, read_card, write_card

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_DAY = 86_400  # seconds


class Config(Section):
    """How popularity is counted."""

    by: Literal["users", "weight"] = "users"
    """`users` counts who interacted with an item, `weight` sums the interactions' weights."""
    days: int | None = Field(None, ge=1)
    """Count only the interactions of the so many days up to the newest one; an item without any is popular by 0."""
    half_life_days: float | None = Field(None, gt=0)
    """An interaction counts half as much for every so many days that it is older than the newest one."""
    damping: float = Field(10.0, ge=0)
    """Ratings at the global mean that are added to each item's own before its mean is taken."""


class Popularity:
    """Score = popularity; rating = the item's damped mean rating (Funk 2006)."""

    name = "popularity"
    dot_product = False

    def __init__(self, counts: Floats, ratings: Floats, known: np.ndarray | None = None) -> None:
        """Take what is known of every item, [n_items] each.

        Args:
            counts: popularity.
            ratings: mean rating; NaN where none is known.
            known: which items were trained; those with a popularity above 0, where nothing is said.
        """
        self.counts = counts
        self.ratings = ratings
        self.known = counts > 0 if known is None else known
        self.n_items = len(counts)
        self.rates = bool(np.isfinite(ratings).any())

    def score(self, users: UserBlock) -> Floats:
        scores = np.where(self.known, self.counts, NO_OPINION)
        return np.tile(scores, (len(users), 1))

    def rate(self, users: UserBlock) -> Floats:
        return np.tile(self.ratings, (len(users), 1))

    def save(self, path: Path) -> None:
        np.savez(path / "popularity.npz", counts=self.counts, ratings=self.ratings, known=self.known)
        write_card(path, self.name, n_items=self.n_items)

    @classmethod
    def load(cls, path: Path) -> Popularity:
        read_card(path)
        with np.load(path / "popularity.npz") as arrays:
            known = arrays.get("known")  # a champion may be older than the window is
            return cls(arrays["counts"], arrays["ratings"], known)


def fit(data: TrainingData, config: Config) -> Popularity:
    """Count the training interactions.

    Raises:
        DataError: there is no interaction.
    """
    from pyspark.sql import functions as F  # here, because serving a model must not need Spark

    per_item = data.interactions.groupBy("item_id").agg(
        _popularity(data.interactions, config).alias("popularity"), F.sum("rating").alias("sum"),
        F.count("rating").alias("n"),
    ).toPandas()  # fmt: skip
    if per_item.empty:
        raise DataError("no interaction to train on")
    n_items = int(per_item["item_id"].max()) + 1
    item = per_item["item_id"].to_numpy()
    counts, known = np.zeros(n_items, np.float32), np.zeros(n_items, bool)
    counts[item] = per_item["popularity"].fillna(0)
    known[item] = True

    ratings = np.full(n_items, np.nan, np.float32)
    rated = int(per_item["n"].sum())
    if rated:
        mean = per_item["sum"].sum() / rated
        total = per_item["sum"].fillna(0).to_numpy() + config.damping * mean
        of = per_item["n"].to_numpy() + config.damping
        ratings[:] = mean
        ratings[item[of > 0]] = total[of > 0] / of[of > 0]
    return Popularity(counts, ratings, known)


def _popularity(rows: DataFrame, config: Config) -> Column:
    """Sum what each interaction counts: 1 or its weight, times 2^(-age / half-life), where it is not too old."""
    from pyspark.sql import functions as F

    counts = F.lit(1) if config.by == "users" else F.col("weight")
    if config.days is None and config.half_life_days is None:
        return F.sum(counts)
    newest = rows.agg(F.max("timestamp")).first()[0]
    age = (F.lit(newest) - F.col("timestamp")) / _DAY  # in days, as a fraction
    if config.half_life_days is not None:
        # decimals add up to the same in whatever order they come
        counts = (counts * F.pow(F.lit(0.5), age / config.half_life_days)).cast("decimal(32,18)")
    if config.days is not None:
        counts = F.when(age < config.days, counts)
    return F.sum(counts).cast("double")


load = Popularity.load
