"""Which ranks of a list are relevant: what every ranking metric starts from.

Each user's truth is marked in an array over the catalogue, and the list is looked up in it: one pass over both, in the
memory of one block of users and one catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recsys_spark.native import kernel

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Truth:
    """The relevant items of B users, one behind the other: `items[offsets[b]:offsets[b + 1]]` are those of user b."""

    offsets: NDArray[np.int64]
    """`[B + 1]`, from 0."""
    items: Ints
    """Ids; 0 and repeats do not count."""

    @classmethod
    def of(cls, truth: Sequence[ArrayLike] | Truth) -> Truth:
        """Lay one array per user end to end."""
        if isinstance(truth, Truth):
            return truth
        parts = [np.asarray(items) for items in truth]
        filled = [part for part in parts if part.size]  # an empty list is a float array; do not let it cast the rest
        sizes = np.array([part.size for part in parts], np.int64)
        items = np.concatenate(filled) if filled else np.zeros(0, np.int64)
        return cls(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), items)

    def __len__(self) -> int:
        return len(self.offsets) - 1


def hit_matrix(ranked: Ints, truth: Sequence[ArrayLike] | Truth, n_items: int) -> Bools:
    """Whether each ranked item is in its user's truth: bool `[B, K]`.

    Args:
        ranked: item ids in 0..n_items, best first, `[B, K]`; 0 is "no recommendation" and never a hit.
        truth: B one-dimensional integer arrays, each a user's relevant items; order and repeats do not matter.
        n_items: the largest item id there is.

    An item that a list repeats is a hit at its best rank only, so that no metric can exceed 1.

    >>> hit_matrix(np.array([[3, 1, 2], [2, 0, 0]]), [np.array([2, 3]), np.array([1])], n_items=3).tolist()
    [[True, False, True], [False, False, False]]
    """
    return find_hits(ranked, Truth.of(truth), n_items)[0]


def find_hits(ranked: Ints, truth: Truth, n_items: int) -> tuple[Bools, NDArray[np.int64]]:
    """`hit_matrix`, and beside it how many distinct known items each truth holds, int64 `[B]`."""
    ids, items = _checked(ranked, truth, n_items)
    hits, n_relevant = np.zeros(ids.shape, np.bool_), np.zeros(len(truth), np.int64)
    _mark_hits(ids, truth.offsets, items, np.zeros(n_items + 1, np.int64), hits, n_relevant)
    return hits, n_relevant


def relevant_counts(truth: Sequence[ArrayLike] | Truth) -> NDArray[np.int64]:
    """How many distinct known items each user's truth holds: `n_relevant`, int64 `[B]`.

    >>> relevant_counts([np.array([2, 3, 3]), np.array([0]), np.array([])]).tolist()
    [2, 0, 0]
    """
    truth = Truth.of(truth)
    return find_hits(np.zeros((len(truth), 0), np.int64), truth, largest_id(truth.items))[1]


def gain_matrix(ranked: Ints, truth: Sequence[ArrayLike], gains: Sequence[ArrayLike], n_items: int) -> Floats:
    """What each ranked item is worth to its user: float64 `[B, K]`, 0 for an item that is not in the truth.

    Args:
        ranked: as of `hit_matrix`; an item that a list repeats is worth something at its best rank only.
        truth: as of `hit_matrix`.
        gains: worth of each item of `truth`, B arrays of the same lengths, finite and not negative; of an item that
            a truth repeats the largest counts.

    >>> gain_matrix(np.array([[3, 1, 2]]), [np.array([2, 3])], [np.array([5.0, 1.0])], n_items=3).tolist()
    [[1.0, 0.0, 5.0]]
    """
    laid, worth = Truth.of(truth), _checked_gains(truth, gains)
    ids, items = _checked(ranked, laid, n_items)
    found = np.zeros(ids.shape)
    _mark_gains(ids, laid.offsets, items, worth, np.zeros(n_items + 1, np.int64), np.zeros(n_items + 1), found)
    return found


def ideal_gains(truth: Sequence[ArrayLike], gains: Sequence[ArrayLike]) -> Floats:
    """Each user's gains, largest first: float64 `[B, T]`, filled up with 0; what the best list there is would earn.

    >>> ideal_gains([np.array([4, 5, 5]), np.array([1])], [np.array([1.0, 3.0, 2.0]), np.array([2.0])]).tolist()
    [[3.0, 1.0], [2.0, 0.0]]
    """
    worth, rows = np.split(_checked_gains(truth, gains), np.cumsum([np.size(t) for t in truth])[:-1]), []
    for items, values in zip(truth, worth, strict=True):
        best: dict[int, float] = {}
        for item, value in zip(np.asarray(items).tolist(), values.tolist(), strict=True):
            if item:
                best[item] = max(value, best.get(item, 0.0))
        rows.append(sorted(best.values(), reverse=True))
    ideal = np.zeros((len(rows), max(map(len, rows), default=0)))
    for b, row in enumerate(rows):
        ideal[b, : len(row)] = row
    return ideal


def largest_id(ids: Ints) -> int:
    """Return the largest id, 0 where there is none."""
    return int(ids.max(initial=0))


def _checked(ranked: Ints, truth: Truth, n_items: int) -> tuple[Ints, Ints]:
    if np.ndim(ranked) != 2 or len(ranked) != len(truth):
        raise ValueError(f"ranked must be [B, K] with one row per truth ({len(truth)}), got shape {np.shape(ranked)}")
    return _checked_ids(np.asarray(ranked), n_items, "ranked"), _checked_ids(truth.items, n_items, "truth")


def _checked_ids(ids: Ints, n_items: int, name: str) -> Ints:
    """Ids as int32 or int64; one out of range would be looked up outside the marks, so it must not get further."""
    if ids.dtype.kind not in "iu":
        raise ValueError(f"{name} must hold integer item ids, got {ids.dtype}")
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) <= n_items:
        raise ValueError(f"{name} holds item ids {ids.min()}..{ids.max()}, outside 0..{n_items}")
    return np.ascontiguousarray(ids, ids.dtype if ids.dtype == np.int32 else np.int64)


def _checked_gains(truth: Sequence[ArrayLike], gains: Sequence[ArrayLike]) -> Floats:
    sizes, given = [np.size(t) for t in truth], [np.size(g) for g in gains]
    if sizes != given:
        raise ValueError("gains must hold one number for every item of its truth")
    worth = np.concatenate([np.zeros(0), *(np.asarray(g, float) for g in gains)])
    if not (np.isfinite(worth) & (worth >= 0)).all():
        raise ValueError("gains must be finite and not negative")
    return worth


@kernel
def _mark_hits(ranked, offsets, items, marks, hits, n_relevant):  # type: ignore[no-untyped-def]
    """Fill `hits` [B, K] and `n_relevant` [B]; `marks` [n_items + 1] begins as zeros and is the only extra memory."""
    for b in range(len(ranked)):
        for e in range(offsets[b], offsets[b + 1]):
            item = items[e]
            if item > 0 and marks[item] != b + 1:
                marks[item] = b + 1
                n_relevant[b] += 1
        for j in range(ranked.shape[1]):
            item = ranked[b, j]
            if marks[item] == b + 1:  # never so of item 0, which nothing marks
                hits[b, j] = True
                marks[item] = 0  # the next time it is no hit


@kernel
def _mark_gains(ranked, offsets, items, gains, marks, worth, found):  # type: ignore[no-untyped-def]
    """`_mark_hits` with what an item is worth in `worth` [n_items + 1]; fills `found` [B, K]."""
    for b in range(len(ranked)):
        for e in range(offsets[b], offsets[b + 1]):
            item = items[e]
            if item > 0:
                worth[item] = gains[e] if marks[item] != b + 1 else max(worth[item], gains[e])
                marks[item] = b + 1
        for j in range(ranked.shape[1]):
            item = ranked[b, j]
            if marks[item] == b + 1:
                found[b, j] = worth[item]
                marks[item] = 0
