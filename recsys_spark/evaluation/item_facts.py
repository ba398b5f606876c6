"""What the night knows of items beside their counts: how old they are, and of which kinds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from scipy.sparse import csr_matrix

from recsys_spark.evaluation.metrics.hits import Ints

_MOST_KINDS = 128
_DAY = 86_400


@dataclass(frozen=True, eq=False)
class ItemFacts:
    """Of each item, by dense id; ids beyond the end are items that nothing is known of."""

    age_days: NDArray[np.float32]
    """Days from the first interaction with it to the run date, `[n_items]`; NaN where there was none."""
    kinds: csr_matrix
    """1 for each of its categories, the 128 most frequent of the catalogue, `[n_items, C]`; C is 0 without any."""
    names: tuple[str, ...]
    """Of the categories, the most frequent first."""

    def ages(self, n_items: int) -> NDArray[np.float64]:
        """Return the ages of ids up to `n_items`, `[n_items + 1]`."""
        padded = np.full(max(n_items + 1, len(self.age_days)), np.nan)
        padded[: len(self.age_days)] = self.age_days
        return padded

    def listed_kinds(self, ranked: Ints) -> tuple[Ints, NDArray[np.float64]]:
        """Return the lists with ids of the items that they have, and these items' kinds as vectors.

        A catalogue of a million items would not fit as one matrix of vectors.

        Returns:
            `[B, K]`, in which 0 is still nothing, and `[listed + 1, C]`.
        """
        items = np.unique(np.append(ranked.ravel(), 0))
        within = np.where(items < self.kinds.shape[0], items, 0)
        vectors = self.kinds[within].toarray().astype(np.float64)
        vectors[within == 0] = 0.0
        return np.searchsorted(items, ranked), vectors


def item_facts(
    interactions: DataFrame, catalogue: DataFrame, numbers: DataFrame, until: int, n_items: int
) -> ItemFacts:
    """Collect what is known of the items: 4 bytes for each, and 8 for each of its categories.

    Args:
        interactions: rows of `INTERACTIONS`.
        catalogue: rows of `ITEMS`, and `numbers` those of `ITEM_IDS`.
        until: end of the run date, seconds since 1970 UTC.
        n_items: ids are below it.
    """
    first = interactions.groupBy("item_id").agg(F.min("timestamp").alias("first")).where(F.col("item_id") < n_items)
    ages = np.full(n_items, np.nan, np.float32)
    table = first.toArrow()
    ages[table["item_id"].to_numpy()] = np.maximum(0, (until - table["first"].to_numpy()) / _DAY)
    named = catalogue.join(numbers, catalogue["item_id"] == numbers["raw_id"]).where(F.col("id") < n_items)
    pairs = named.select("id", F.explode(F.array_distinct("categories")).alias("kind")).where("kind is not null")
    found = pairs.toArrow().to_pandas()
    frequent = sorted(found["kind"].value_counts().items(), key=lambda kind: (-kind[1], kind[0]))[:_MOST_KINDS]
    column = {kind: n for n, (kind, _) in enumerate(frequent)}
    found = found[found["kind"].isin(column)]
    at = found["id"].to_numpy(), found["kind"].map(column).to_numpy(np.int64)
    kinds = csr_matrix((np.ones(len(found), np.float32), at), shape=(n_items, len(column)))
    return ItemFacts(ages, kinds, tuple(column))
