"""Score, mask, select, break ties: what every top-K does, in Spark, in training and behind the endpoint.

A compiled kernel looks at each score once, against the worst of the k best so far. Histories are not masked in the
matrix of scores: only an item that would enter the list is looked up. Models whose scores are dot products are never
asked for that matrix; it is made and looked through in tiles that fit a processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from recsys_spark.models.base import NO_OPINION, Floats, Ints, Recommender, UserBlock
from recsys_spark.models.two_stage import TwoStage
from recsys_spark.native import kernel

_TILE_USERS, _TILE_ITEMS = 256, 2_048
_SCAN = 64
"""Scores that are compared with the worst of the list at once."""


def recommend_block(model: Recommender, users: UserBlock, k: int) -> tuple[Ints, Floats]:
    """Return the k best unseen items of each user, best first, equal scores by smaller item id.

    Returns:
        Item ids [B, k] and their scores [B, k]; item 0 with score `NO_OPINION` fills up a short list.
    """
    if isinstance(model, TwoStage):
        return _rerank(model, users, k)
    if not model.dot_product:
        return select_top_k(model.score(users), users, k)
    vectors, items, eligible = model.user_vectors(users), model.item_vectors(), model.item_mask()  # type: ignore[attr-defined]
    vectors = np.where(vectors.any(axis=1, keepdims=True), vectors, np.float32(np.nan))  # NaN is never selected
    best = Best(users, eligible, k)
    tile = np.empty(
        _TILE_USERS * _TILE_ITEMS, np.float32
    )  # one for all products: fresh memory costs as much as they do
    for u in range(0, len(users), _TILE_USERS):
        for i in range(0, len(items), _TILE_ITEMS):
            left, right = vectors[u : u + _TILE_USERS], items[i : i + _TILE_ITEMS].T
            scores = tile[: len(left) * right.shape[1]].reshape(len(left), -1)
            best.offer(np.matmul(left, right, out=scores), u, i)
    return best.ranked()


def _rerank(model: TwoStage, users: UserBlock, k: int) -> tuple[Ints, Floats]:
    """Retrieve candidates, weigh them, and keep the k best."""
    items, found, offered = retrieve(model, users, k)
    return best_candidates(model.rank(users, items, found, offered), items, users, k)


def retrieve(model: TwoStage, users: UserBlock, k: int) -> tuple[Ints, Floats, np.ndarray]:
    """Return the candidates of each user in the order of their ids, as many as k or more.

    Returns:
        Item ids [B, C], 0 where there are too few; the retriever's scores [B, C]; and which of them are the best
        `candidates` of the user, bool [B, C].
    """
    items, found = recommend_block(model.retriever, users, max(k, model.candidates))
    place = np.argsort(items, axis=1, kind="stable")
    return (
        np.take_along_axis(items, place, axis=1), np.take_along_axis(found, place, axis=1), place < model.candidates,
    )  # fmt: skip


def best_candidates(scores: Floats, items: Ints, users: UserBlock, k: int) -> tuple[Ints, Floats]:
    """Return the k best of each user's candidates, both [B, C] in the order of the ids, as `recommend_block` does."""
    best = Best(users, np.ones(int(items.max(initial=0)) + 1, bool), k)
    best.offer_some(scores, items)
    return best.ranked()


def select_top_k(scores: Floats, users: UserBlock, k: int) -> tuple[Ints, Floats]:
    """Return the k best of each row, without the user's history and the unknown item 0, as `recommend_block` does.

    Args:
        scores: [B, n_items]; `NO_OPINION` and NaN are never selected.

    >>> select_top_k(np.array([[9, 1, 3, 3, 5]], np.float32), UserBlock.of([7], [[4]]), 2)[0]
    array([[2, 3]])
    """
    best = Best(users, np.ones(scores.shape[1], bool), k)
    best.offer(scores, 0, 0)
    return best.ranked()


class Best:
    """The k best items so far of each user of a block: a heap per user, the worst on top."""

    def __init__(self, users: UserBlock, eligible: np.ndarray, k: int) -> None:
        rows, n = users.rows(), int(users.items.max(initial=0)) + 1
        # sorted by one number for both, which takes a tenth of the time of a sort by two keys
        self.offsets, self.seen = users.offsets, np.sort(rows * n + users.items) - rows * n
        self.eligible = eligible
        self.items = np.zeros((len(users), k), np.int64)
        self.scores = np.full((len(users), k), NO_OPINION, np.float32)
        self.sizes = np.zeros(len(users), np.int64)

    def offer(self, scores: Floats, first_user: int, first_item: int) -> None:
        """Take a tile of the scores; the tiles of a user have to come in the order of the items."""
        at = slice(first_user, first_user + len(scores))
        _offer(
            np.ascontiguousarray(scores, np.float32), first_item, self.offsets[first_user:], self.seen, self.eligible,
            self.items[at], self.scores[at], self.sizes[at],
        )  # fmt: skip

    def offer_some(self, scores: Floats, items: Ints) -> None:
        """Take the scores [B, c] of some items of each user, [B, c], in the order of their ids."""
        _offer_some(scores, items, self.offsets, self.seen, self.eligible, self.items, self.scores, self.sizes)

    def ranked(self) -> tuple[Ints, Floats]:
        _sort(self.items, self.scores, self.sizes)
        return self.items, self.scores


def blocks(users: UserBlock, size: int) -> Iterator[UserBlock]:
    """Cut a block into blocks of at most `size` users."""
    for start in range(0, len(users), size):
        yield users.take(start, min(start + size, len(users)))


@kernel
def _offer(scores, first_item, offsets, seen, eligible, items, best, sizes):  # type: ignore[no-untyped-def]
    """Let the scores [b, n] of items first_item, first_item + 1, … enter the heaps of b users."""
    k = items.shape[1]
    for b in range(len(scores) if k else 0):
        row = scores[b]
        worst = best[b, 0] if sizes[b] == k else np.float32(-np.inf)
        for start in range(0, len(row), _SCAN):
            if start + _SCAN <= len(row):
                hits, part = np.int32(0), row[start : start + _SCAN]
                for j in range(_SCAN):  # so many at a time that they fill the registers
                    hits |= np.int32(part[j] > worst)
                if not hits:
                    continue
            for j in range(start, min(start + _SCAN, len(row))):
                item = first_item + j
                # what comes later and is only as good has the larger id, so it loses
                wanted = row[j] > worst and item > 0 and eligible[item]
                if wanted and not _contains(seen, offsets[b], offsets[b + 1], item):
                    sizes[b] = _enter(items[b], best[b], sizes[b], item, row[j])
                    worst = best[b, 0] if sizes[b] == k else worst


@kernel
def _offer_some(scores, candidates, offsets, seen, eligible, items, best, sizes):  # type: ignore[no-untyped-def]
    """Let the scores [B, c] of candidates [B, c] enter the heaps of B users."""
    k = items.shape[1]
    for b in range(len(scores) if k else 0):
        for c in range(scores.shape[1]):
            item, score = candidates[b, c], scores[b, c]
            worst = best[b, 0] if sizes[b] == k else np.float32(-np.inf)
            wanted = score > worst and item > 0 and eligible[item]
            if wanted and not _contains(seen, offsets[b], offsets[b + 1], item):
                sizes[b] = _enter(items[b], best[b], sizes[b], item, score)


@kernel
def _enter(items, scores, size, item, score):  # type: ignore[no-untyped-def]
    """Put an item into a user's heap, in place of the worst where it is full; return how many it holds then."""
    if size < len(items):
        items[size], scores[size] = item, score
        _sift_up(items, scores, size)
        return size + 1
    items[0], scores[0] = item, score
    _sift_down(items, scores, size)
    return size


@kernel
def _contains(values, lo, hi, wanted):  # type: ignore[no-untyped-def]
    """Tell whether the sorted values[lo:hi] hold a value (binary search)."""
    end = hi
    while lo < hi:
        middle = (lo + hi) // 2
        if values[middle] < wanted:
            lo = middle + 1
        else:
            hi = middle
    return lo < end and values[lo] == wanted


@kernel
def _worse(items, scores, a, b):  # type: ignore[no-untyped-def]
    return scores[a] < scores[b] or (scores[a] == scores[b] and items[a] > items[b])


@kernel
def _swap(items, scores, a, b):  # type: ignore[no-untyped-def]
    items[a], items[b] = items[b], items[a]
    scores[a], scores[b] = scores[b], scores[a]


@kernel
def _sift_up(items, scores, at):  # type: ignore[no-untyped-def]
    while at > 0 and _worse(items, scores, at, (at - 1) // 2):
        _swap(items, scores, at, (at - 1) // 2)
        at = (at - 1) // 2


@kernel
def _sift_down(items, scores, size):  # type: ignore[no-untyped-def]
    at = 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and _worse(items, scores, child + 1, child):
            child += 1
        if not _worse(items, scores, child, at):
            return
        _swap(items, scores, child, at)
        at = child


@kernel
def _sort(items, scores, sizes):  # type: ignore[no-untyped-def]
    """Turn the heaps into lists, best first (heap sort)."""
    for b in range(len(items)):
        for last in range(sizes[b] - 1, 0, -1):
            _swap(items[b], scores[b], 0, last)
            _sift_down(items[b], scores[b], last)
