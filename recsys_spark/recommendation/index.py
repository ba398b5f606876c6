"""An index of item vectors for catalogues that are too large to scan: some lists of items instead of all of them.

The vectors are put into lists around centroids (an inverted file: Jégou, Douze & Schmid 2011, "Product quantization
for nearest neighbor search", section IV), and a user's vector is compared with those of the few lists whose centroids
are nearest. Products become distances by one more number, sqrt(max |y|² - |y|²) for an item y and 0 for a user, which
makes all items as long, and users are made as long as they are (Bachrach et al. 2014, "Speeding up the Xbox recommender
system using a Euclidean transformation for inner-product spaces"); else the lists of the long ones would be large, and
looked through for everyone. How many have to be is measured and not guessed: twice as many until the recall that was
asked for is reached on a sample of users, as long as that is less work than a scan.
"""

from __future__ import annotations

import dataclasses
import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recsys_spark.errors import ConfigError
from recsys_spark.models.base import Floats, Ints, Recommender, UserBlock
from recsys_spark.recommendation.select import Best, recommend_block

_SPARE = 64
"""Items that are looked for beyond k, in place of those that the user has had."""
_SAMPLES_PER_LIST = 64  # vectors that a centroid is trained on
_MOST_PROBED = 0.25
"""Share of the lists beyond which it is not worth it: a scan multiplies matrices, while lists are looked through for a
user at a time."""
_BLOCK = 256


@dataclass(frozen=True)
class Measured:
    """How good an index was found to be.

    Attributes:
        lists: into how many the items were put.
        probes: how many of them are looked through for a user.
        recall: share of the true k best unseen items that it finds, mean over the sample.
        users: of the sample.
    """

    lists: int
    probes: int
    recall: float
    users: int


class Index:
    """Selects as `recommend_block` does, from what its lists hold of the items."""

    def __init__(self, model: Any, lists: Any, measured: Measured) -> None:
        self.model, self.measured = model, measured
        self._items: Floats = model.item_vectors()
        self._lists = lists
        self._longest = np.sqrt(np.square(self._items).sum(axis=1).max(initial=0))

    def recommend_block(self, users: UserBlock, k: int) -> tuple[Ints, Floats]:
        """Return k items [B, k] and scores [B, k] for each user; whom the index leaves with too few is scanned for."""
        items, scores = np.zeros((len(users), k), np.int64), np.full((len(users), k), -np.inf, np.float32)
        for start in range(0, len(users), _BLOCK):
            block = users.take(start, min(start + _BLOCK, len(users)))
            at = slice(start, start + len(block))
            items[at], scores[at] = self._search(block, k)
        short = np.flatnonzero(items[:, -1] == 0) if k else np.empty(0, int)
        if len(short):
            items[short], scores[short] = recommend_block(self.model, users.only(short), k)
        return items, scores

    def _search(self, users: UserBlock, k: int) -> tuple[Ints, Floats]:
        import faiss

        vectors = np.ascontiguousarray(self.model.user_vectors(users), np.float32)
        known = vectors.any(axis=1)
        found = np.full((len(users), k + _SPARE), -1, np.int64)
        parameters = faiss.SearchParametersIVF()
        parameters.nprobe = self.measured.probes
        asked = np.pad(vectors[known], ((0, 0), (0, 1)))
        asked *= self._longest / np.linalg.norm(asked, axis=1, keepdims=True)
        found[known] = self._lists.search(asked, k + _SPARE, params=parameters)[1]
        found.sort(axis=1)  # by item, as the selection wants them
        exact = np.einsum("bd,bcd->bc", vectors, self._items[np.maximum(found, 0)])
        exact[found < 0] = np.nan
        best = Best(users, self.model.item_mask(), k)
        best.offer_some(exact, found)
        return best.ranked()


def build(model: Recommender, sample: UserBlock, k: int, min_recall: float, path: Path) -> Measured | None:
    """Write an index that reaches a recall, and return what it does; None where a scan is as good.

    Args:
        model: one whose scores are dot products.
        sample: users that the recall is measured on.
        path: the file that is written; beside it, with the ending `.json`, what was measured.

    Raises:
        ConfigError: faiss is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise ConfigError(
            "publish.index needs the library faiss: pip install faiss-cpu, or set publish.index to exact"
        ) from None
    measured = path.with_suffix(".json")
    if path.exists() and measured.exists():
        return Measured(**json.loads(measured.read_text("utf-8")))
    eligible = np.flatnonzero(model.item_mask())  # type: ignore[attr-defined]
    vectors = _as_long(model.item_vectors()[eligible])  # type: ignore[attr-defined]
    n_lists = max(1, min(4 * int(np.sqrt(len(eligible))), len(eligible) // _SAMPLES_PER_LIST))
    lists: Any = faiss.index_factory(vectors.shape[1], f"IVF{n_lists},Flat", faiss.METRIC_L2)
    lists.cp.max_points_per_centroid = _SAMPLES_PER_LIST
    lists.train(vectors)
    lists.add_with_ids(vectors, eligible)
    sample = sample.only(np.flatnonzero(model.user_vectors(sample).any(axis=1)))  # type: ignore[attr-defined]
    truth = recommend_block(model, sample, k)[0]
    found = Measured(n_lists, 1, 0.0, len(sample))
    while found.probes <= n_lists * _MOST_PROBED:
        got = Index(model, lists, found).recommend_block(sample, k)[0]
        found = dataclasses.replace(found, recall=recall(truth, got))
        if found.recall >= min_recall:
            _write(lists, path)
            measured.write_text(json.dumps(dataclasses.asdict(found)), "utf-8")
            return found
        found = dataclasses.replace(found, probes=2 * found.probes)
    return None


def load(path: Path, model: Recommender) -> Index:
    """Open an index of a model; its lists stay in the file, which all tasks of a machine share in memory."""
    import faiss

    lists = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    return Index(model, lists, Measured(**json.loads(path.with_suffix(".json").read_text("utf-8"))))


def recall(truth: Ints, found: Ints) -> float:
    """Return the share of the items in `truth` [B, k] that are in `found` [B, k], mean over the users that have any.

    >>> recall(np.array([[1, 2], [3, 0], [0, 0]]), np.array([[2, 5], [3, 0], [0, 0]]))
    0.75
    """
    there = truth > 0
    hits = (truth[:, :, None] == found[:, None, :]).any(axis=2) & there
    some = there.any(axis=1)
    return float((hits.sum(axis=1)[some] / there.sum(axis=1)[some]).mean()) if some.any() else 1.0


def _as_long(vectors: Floats) -> Floats:
    """Add to each vector [n, D] the number that makes it as long as the longest, [n, D + 1]."""
    squares = np.square(vectors, dtype=np.float64).sum(axis=1)
    return np.column_stack([vectors, np.sqrt(squares.max(initial=0) - squares)]).astype(np.float32)


def _write(lists: Any, path: Path) -> None:
    import faiss

    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    faiss.write_index(lists, str(aside))
    os.replace(aside, path)
