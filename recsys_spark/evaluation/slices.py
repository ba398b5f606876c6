"""Which slices a user is measured in: by activity, tenure, whether models know them, and what the log says of them.

A slice is named `what=value`, as `activity=5-19` or `country=FI`. Limits are fixed, so that a slice means the same
every night. Slices of items, `item=head`, `item=tail` and `item=cold`, hold a user's list against those of the
held-out items that are such: the list stays as it is.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.evaluation.metrics.hits import Ints, Truth, find_hits, largest_id
from recsys_spark.evaluation.metrics.ranking import ndcg_at_k

K = 10
"""Slices are measured by NDCG@10, which decides about promotion."""
OTHER = "other"
ITEM_CLASSES = ("cold", "tail", "head")
_ACTIVITY = (1, 5, 20, 100)
_TENURE = (0, 7, 30, 90)
_MOST_VALUES = 30
_HEAD = 0.5


@dataclass(frozen=True, eq=False)
class ItemCounts:
    """What the night's models learnt from, by item."""

    users: NDArray[np.int64]
    """Users who have each item in the training part's core, `[n_items]`; that of the unknown item 0 is 0."""
    n_users: int
    """Users in the core."""

    def covering(self, ranked: Ints, truth: Truth) -> NDArray[np.int64]:
        """Return `users` with zeros for ids that only a list or a truth has: a champion may know other items."""
        most = max(largest_id(ranked), largest_id(truth.items))
        return np.pad(self.users, (0, max(0, most + 1 - len(self.users))))


def item_classes(users: NDArray[np.int64]) -> NDArray[np.int8]:
    """Class of each item, as an index of `ITEM_CLASSES`, `[n_items]`.

    The head is the fewest items that have half of the training rows; equal counts by smaller id. Cold items have none.

    >>> item_classes(np.array([0, 1, 5, 0, 2])).tolist()
    [0, 1, 2, 0, 1]
    """
    order = np.argsort(-users, kind="stable")
    before = np.cumsum(users[order]) - users[order]
    classes = (users > 0).astype(np.int8)
    classes[order[(before < _HEAD * users.sum()) & (users[order] > 0)]] = 2
    return classes


def user_labels(
    interactions: DataFrame, trained: DataFrame, attributes: Mapping[str, DataFrame], wanted: list[str], day: dt.date
) -> DataFrame:
    """Return `user_id` and `labels` (array of slice names), of what does not follow from a history alone.

    Args:
        interactions: the rows of `INTERACTIONS`.
        trained: `user_id` of the users in the training part's core; the others are cold.
        attributes: by name `user_id` and `segment`, of `dataset.segments`; beyond the 30 most frequent segments of
            one, which are named, a user is in `other`.
        wanted: `evaluation.slices`.
        day: the run date, up to which a tenure counts: from the first interaction that is not held out for the test.
    """
    first = interactions.where("split != 'test'").groupBy("user_id").agg(F.min("timestamp").alias("_first"))
    labels: list[Column] = []
    if "tenure" in wanted:
        days = F.date_diff(F.lit(day), F.to_date(F.timestamp_seconds("_first")))
        labels.append(F.concat(F.lit("tenure="), _between(days, _TENURE), F.lit(" days")))
    if "user" in wanted:
        warm = trained.select("user_id", F.lit(True).alias("_warm"))
        first = first.join(warm, "user_id", "left")
        labels.append(F.when(F.col("_warm"), "user=warm").otherwise("user=cold"))
    for name, segments in attributes.items():
        first = first.join(_named(segments).withColumnRenamed("segment", f"_{name}"), "user_id", "left")
        labels.append(F.concat(F.lit(f"{name}="), F.col(f"_{name}")))
    return first.select("user_id", F.array_compact(F.array(*labels)).cast("array<string>").alias("labels"))


def activity_label() -> Column:
    """Return the slice of a row of `histories` by the length of the history."""
    return F.concat(F.lit("activity="), _between(F.size("items"), _ACTIVITY))


def slice_values(
    ranked: Ints, truth: Truth, labels: pa.ListArray, counts: ItemCounts | None
) -> dict[str, NDArray[np.float64]]:
    """NDCG@10 of B users by slice, `[B]` each; NaN for a user who is not in the slice.

    Args:
        labels: the users' slices, B lists of names.
        counts: where given, the slices of items are measured too.
    """
    n_items = max(largest_id(ranked), largest_id(truth.items))
    ndcg = ndcg_at_k(*find_hits(ranked, truth, n_items), K)
    lengths = labels.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    row, names = np.repeat(np.arange(len(truth)), lengths), labels.flatten().dictionary_encode()
    matrix = np.full((len(names.dictionary), len(truth)), np.nan)
    matrix[names.indices.to_numpy(), row] = ndcg[row]
    found = dict(zip(names.dictionary.to_pylist(), matrix, strict=True))
    if counts is not None:
        classes = item_classes(counts.covering(ranked, truth))[truth.items]
        for number, name in enumerate(ITEM_CLASSES):
            of_class = Truth(truth.offsets, np.where(classes == number, truth.items, 0))
            found[f"item={name}"] = ndcg_at_k(*find_hits(ranked, of_class, n_items), K)
    return found


def _named(segments: DataFrame) -> DataFrame:
    often = segments.groupBy("segment").count().orderBy(F.desc("count"), "segment").limit(_MOST_VALUES)
    named = segments.join(F.broadcast(often.withColumnRenamed("count", "_users")), "segment", "left")
    value = F.when(F.col("_users").isNotNull(), F.col("segment")).otherwise(OTHER)
    return named.select("user_id", value.alias("segment"))


def _between(value: Column, limits: tuple[int, ...]) -> Column:
    """Name the range that a number lies in: `1-4`, `5-19`, …, `100+`."""
    name = F.when(value >= limits[-1], f"{limits[-1]}+")
    for low, above in zip(limits[-2::-1], limits[:0:-1], strict=True):
        name = name.when(value >= low, f"{low}-{above - 1}")
    return name
