"""Most popular items, of all time or lately, among everyone or a user's segment; less what each has seen.

Within a segment an item's popularity is smoothed by everyone's, so that a small one is not ruled by chance: as many
counts as `segment_prior` says are added to the segment's own, shared out as everyone's are (a Dirichlet prior: Zhai &
Lafferty 2004, "A study of smoothing methods for language models applied to information retrieval").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from recsys_spark.config import Section
from recsys_spark.errors import DataError
from recsys_spark.models.base import NO_OPINION, Floats, TrainingData, UserBlock, read_card, write_card

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import Column, DataFrame

SEGMENTS = "segments.npz"
"""Users' segments and the popularity in each, in a saved model."""
_DAY = 86_400  # seconds


class Config(Section):
    """How popularity is counted."""

    by: Literal["users", "weight"] = "users"
    """`users` counts who interacted with an item, `weight` sums the interactions' weights."""
    days: int | None = Field(None, ge=1)
    """Count only the interactions of the so many days up to the newest one; an item without any is popular by 0."""
    half_life_days: float | None = Field(None, gt=0)
    """An interaction counts half as much for every so many days that it is older than the newest one."""
    segment: str | None = None
    """Count within the segments of this attribute, by the value that most of a user's training events have: `device`,
    `country`, or one of `log.attributes`. Whoever has none gets what is popular among everyone."""
    segment_prior: float = Field(100.0, gt=0)
    """Counts that are added to a segment's own, in everyone's proportions."""
    damping: float = Field(10.0, ge=0)
    """Ratings at the global mean that are added to each item's own before its mean is taken."""


@dataclass
class Segments:
    """Popularity within each segment.

    Attributes:
        names: of the segments, [S].
        of_user: each user's segment by dense id, from 1; 0 for none, as for whoever comes later.
        counts: smoothed popularity in each, [S, n_items].
    """

    names: list[str]
    of_user: np.ndarray
    counts: Floats


class Popularity:
    """Score = popularity; rating = the item's damped mean rating (Funk 2006)."""

    name = "popularity"
    dot_product = False

    def __init__(
        self, counts: Floats, ratings: Floats, known: np.ndarray | None = None, segments: Segments | None = None
    ) -> None:
        """Take what is known of every item, [n_items] each.

        Args:
            counts: popularity.
            ratings: mean rating; NaN where none is known.
            known: which items were trained; those with a popularity above 0, where nothing is said.
            segments: popularity within segments, where users have any.
        """
        self.segments = segments
        self.counts = counts
        self.ratings = ratings
        self.known = counts > 0 if known is None else known
        self.n_items = len(counts)
        self.rates = bool(np.isfinite(ratings).any())

    def score(self, users: UserBlock) -> Floats:
        popularity = self.counts[None]
        of_user = np.zeros(len(users), np.int64)
        if self.segments is not None:
            popularity = np.concatenate([popularity, self.segments.counts])
            known = users.user_id < len(self.segments.of_user)
            of_user[known] = self.segments.of_user[users.user_id[known]]
        return np.where(self.known, popularity, NO_OPINION)[of_user]

    def rate(self, users: UserBlock) -> Floats:
        return np.tile(self.ratings, (len(users), 1))

    def save(self, path: Path) -> None:
        np.savez(path / "popularity.npz", counts=self.counts, ratings=self.ratings, known=self.known)
        names = None
        if self.segments is not None:
            names = self.segments.names
            np.savez(path / SEGMENTS, of_user=self.segments.of_user, counts=self.segments.counts)
        write_card(path, self.name, n_items=self.n_items, segments=names)

    @classmethod
    def load(cls, path: Path) -> Popularity:
        names, segments = read_card(path).get("segments"), None
        if names is not None:
            with np.load(path / SEGMENTS) as arrays:
                segments = Segments(names, arrays["of_user"], arrays["counts"])
        with np.load(path / "popularity.npz") as arrays:
            known = arrays.get("known")  # a champion may be older than the window is
            return cls(arrays["counts"], arrays["ratings"], known, segments)


def needs(config: Config) -> Iterator[str]:
    """Name what `fit` wants beside the interactions."""
    if config.segment is not None:
        yield f"segments/{config.segment}"


def fit(data: TrainingData, config: Config) -> Popularity:
    """Count the training interactions.

    Raises:
        DataError: there is no interaction, or nobody has a segment.
    """
    from pyspark.sql import functions as F  # here, because serving a model must not need Spark

    popularity = _popularity(data.interactions, config)
    per_item = data.interactions.groupBy("item_id").agg(
        popularity.alias("popularity"), F.sum("rating").alias("sum"),
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
    segments = None
    if data.segments is not None:
        rows = data.interactions.join(data.segments, "user_id")
        found = rows.groupBy("segment", "item_id").agg(popularity.alias("popularity")).toPandas()
        segments = _smoothed(found, data.segments.toPandas(), counts, config)
    return Popularity(counts, ratings, known, segments)


def _smoothed(found: pd.DataFrame, users: pd.DataFrame, counts: Floats, config: Config) -> Segments:
    """Put what was counted in segments into a matrix, and add the prior."""
    if users.empty:
        raise DataError(
            f"no training event has a {config.segment}; choose another models.popularity.segment, or set it to null"
        )
    names = sorted(users["segment"].unique())
    place = {name: place for place, name in enumerate(names)}
    of_user = np.zeros(int(users["user_id"].max()) + 1, np.int32)
    of_user[users["user_id"]] = users["segment"].map(place) + 1
    smoothed = np.tile(config.segment_prior * counts / max(counts.sum(), 1), (len(names), 1)).astype(np.float32)
    smoothed[found["segment"].map(place), found["item_id"]] += found["popularity"].fillna(0).to_numpy(np.float32)
    return Segments(names, of_user, smoothed)


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
