"""What a block of lists is besides right: every metric of `metrics.beyond_accuracy` that there are data for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys_spark.config import EvaluationConfig
from recsys_spark.evaluation.item_facts import ItemFacts
from recsys_spark.evaluation.metrics.beyond_accuracy import (
    freshness_at_k,
    intra_list_diversity_at_k,
    novelty_at_k,
    popularity_at_k,
    popularity_ranks,
    repeat_rate_at_k,
    self_information,
    serendipity_at_k,
)
from recsys_spark.evaluation.metrics.hits import Ints, Truth, find_hits, largest_id
from recsys_spark.evaluation.slices import ItemCounts
from recsys_spark.models.base import UserBlock

OF_HISTORY = "popularity_of_history"
"""Mean popularity of what a user has had: what the popularity of the list is held against, and no metric itself."""

Values = dict[str, NDArray[np.float64]]


def beyond_accuracy(
    ranked: Ints, truth: Truth, users: UserBlock, config: EvaluationConfig, counts: ItemCounts | None = None,
    facts: ItemFacts | None = None,
) -> Values:  # fmt: skip
    """Measure lists `[B, K]` at every cut-off, `[B]` each; of what there are no data, there is nothing.

    Args:
        counts: for novelty, popularity and serendipity.
        facts: for freshness and, where the catalogue has categories, diversity.
    """
    values: Values = {}
    had = Truth(users.offsets, users.items)
    for k in config.ks:
        values[f"repeat_rate@{k}"] = repeat_rate_at_k(ranked, had, k)
    if counts is not None:
        values |= _of_counts(ranked, truth, users, config.ks, counts)
    if facts is not None:
        ages = facts.ages(largest_id(ranked))
        places, vectors = facts.listed_kinds(ranked)
        for k in config.ks:
            values[f"freshness@{k}"] = freshness_at_k(ranked, ages, config.fresh_days, k)
            if vectors.shape[1]:
                values[f"diversity@{k}"] = intra_list_diversity_at_k(places, vectors, k)
    return values


def _of_counts(ranked: Ints, truth: Truth, users: UserBlock, ks: list[int], counts: ItemCounts) -> Values:
    known = counts.covering(ranked, truth)
    known = np.pad(known, (0, max(0, largest_id(users.items) + 1 - len(known))))
    information = self_information(known, max(1, counts.n_users))
    catalogue = len(counts.users) - 1
    # an item beyond the night's catalogue stands behind all of it, whatever else is in the block
    ranks = np.pad(popularity_ranks(counts.users), (0, len(known) - len(counts.users)), constant_values=catalogue + 1)
    hits = find_hits(ranked, truth, len(known) - 1)[0]
    values: Values = {}
    for k in ks:
        values[f"novelty@{k}"] = novelty_at_k(ranked, information, k)
        values[f"popularity@{k}"] = popularity_at_k(ranked, known.astype(float), k)
        values[f"serendipity@{k}"] = serendipity_at_k(ranked, hits, ranks, catalogue, k)
    lengths = np.diff(users.offsets)
    total = np.bincount(users.rows(), known[users.items], len(users))
    # no list, no lift: both sums are over the same users
    listed = (lengths > 0) & (ranked[:, :1] > 0).any(axis=1)
    values[OF_HISTORY] = np.where(listed, total / np.maximum(lengths, 1), np.nan)
    return values
