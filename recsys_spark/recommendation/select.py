"""Mask, select, break ties: the numpy kernel under every top-K, in Spark, in training and behind the endpoint."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from recsys_spark.models.base import NO_OPINION, Floats, Ints, Recommender, UserBlock


def mask_seen(scores: Floats, users: UserBlock) -> Floats:
    """Take the items of each user's history, and the unknown item 0, out of the running, in place.

    Args:
        scores: [B, n_items].
    """
    inside = users.items < scores.shape[1]
    scores[users.rows()[inside], users.items[inside]] = NO_OPINION
    scores[:, 0] = NO_OPINION
    return scores


def select_top_k(scores: Floats, k: int) -> tuple[Ints, Floats]:
    """Return the k best items of each row, best first, equal scores by smaller item id.

    Args:
        scores: [B, n_items]; `NO_OPINION` and NaN are never selected.

    Returns:
        Item ids [B, k] and their scores [B, k]; item 0 with score `NO_OPINION` fills up a short list.

    >>> select_top_k(np.array([[-np.inf, 1, 3, 3]], np.float32), 2)[0]
    array([[2, 3]])
    """
    B, N = scores.shape
    scores = np.where(np.isnan(scores), NO_OPINION, scores)
    kth = min(k, N)
    threshold = np.partition(scores, N - kth, axis=1)[:, N - kth, None]  # [B, 1]
    row, item = np.nonzero((scores >= threshold) & (scores > NO_OPINION))
    value = scores[row, item]
    order = np.lexsort((item, -value, row))
    row, item, value = row[order], item[order], value[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    keep = rank < k
    items, best = np.zeros((B, k), np.int64), np.full((B, k), NO_OPINION, np.float32)
    items[row[keep], rank[keep]] = item[keep]
    best[row[keep], rank[keep]] = value[keep]
    return items, best


def recommend_block(model: Recommender, users: UserBlock, k: int) -> tuple[Ints, Floats]:
    """Return the k best unseen items of each user of a block, [B, k], and their scores."""
    return select_top_k(mask_seen(model.score(users), users), k)


def blocks(users: UserBlock, size: int) -> Iterator[UserBlock]:
    """Cut a block into blocks of at most `size` users."""
    for start in range(0, len(users), size):
        yield users.take(start, min(start + size, len(users)))
