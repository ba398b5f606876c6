"""Items near the items of a history: item-based neighbourhoods.

Sarwar, Karypis, Konstan & Riedl 2001, "Item-based collaborative filtering recommendation algorithms"; Deshpande &
Karypis 2004, "Item-based top-N recommendation algorithms".
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from recsys_spark.models.base import NO_OPINION, Floats, TrainingData, UserBlock, read_card, write_card
from recsys_spark.models.knn.kernel import spread
from recsys_spark.models.knn.search import neighbours
from recsys_spark.models.knn.similarity import Histories, Similarity, Weighting

SHARES = ("models/knn",)


class Config(Similarity):
    """Which items are neighbours, and what they add up to."""

    neighbours_of: Literal["history", "candidate"] = "history"
    """Whose neighbours count: those of each item of the history (Deshpande & Karypis 2004), or the candidate's own
    (Sarwar et al. 2001)."""
    normalize: bool = False
    """Divide an item's similarities by their sum, so that items with close neighbours do not outvote the others."""


class ItemKnn:
    """score(u, j) = sum over the items i of u's history of similarity(i, j) × what i counts in it."""

    name = "item_knn"
    dot_product = False
    rates = False

    def __init__(self, indptr: np.ndarray, ids: np.ndarray, similarities: Floats, known: np.ndarray, config: Config):
        """Take every item's neighbours in CSR, and which items were trained [n_items]."""
        self.neighbours = indptr, ids, similarities
        self.known = known
        self.config = config
        self.n_items = len(known)
        item = np.repeat(np.arange(self.n_items, dtype=np.int32), np.diff(indptr))
        if config.normalize:
            similarities = (similarities / np.bincount(item, similarities, self.n_items)[item]).astype(np.float32)
        if config.neighbours_of == "candidate":  # then the lists say of each item whose neighbour it is
            order = np.argsort(ids, kind="stable")
            indptr = np.concatenate([[0], np.cumsum(np.bincount(ids, minlength=self.n_items))])
            ids, similarities = item[order], similarities[order]
        self._lists = indptr, ids, similarities

    def score(self, users: UserBlock) -> Floats:
        """An item without a neighbour in the history scores 0; a history without a trained item nothing."""
        history = Histories.of(users, self.known, self.config)
        scores = np.zeros((len(users), self.n_items), np.float32)
        spread(history.offsets, history.items, history.weights * history.recency, *self._lists, scores)
        scores[:, ~self.known] = NO_OPINION
        scores[history.empty()] = NO_OPINION
        return scores

    def save(self, path: Path) -> None:
        for part, array in zip(("indptr", "ids", "similarities"), self.neighbours, strict=True):
            np.save(path / f"{part}.npy", array)
        np.save(path / "known.npy", self.known)
        write_card(path, self.name, n_items=self.n_items, config=self.config.model_dump())

    @classmethod
    def load(cls, path: Path) -> ItemKnn:
        parts = ("indptr", "ids", "similarities", "known")
        indptr, ids, similarities, known = (np.load(path / f"{part}.npy") for part in parts)
        return cls(indptr, ids, similarities, known, Config.model_validate(read_card(path)["config"]))


def fit(data: TrainingData, config: Config) -> ItemKnn:
    """Find every item's neighbours, a Spark task for each block of items.

    Raises:
        DataError: there is nothing to train on, an id is no positive int, a weight is negative or no number.
    """
    from recsys_spark.models.knn import packing  # here, because serving a model must not need Spark
    from recsys_spark.session import deal

    users, items = packing.packed(data, config)
    starts, indices, weights = packing.joined(items)
    item, counts = np.repeat(np.arange(items.rows), np.diff(starts)), np.diff(starts)
    weighting = Weighting.of(config, indices, weights, users.rows, int((counts > 0).sum()))
    lengths = np.bincount(item, weights, items.rows)
    values = weighting.apply(weights, lengths[item], indices)
    sizes = weighting.sizes(values, item, items.rows)
    packing.write(users.folder, "rows", starts, indices, values, sizes)
    starts, indices, weights = packing.joined(users)
    user = np.repeat(np.arange(users.rows), np.diff(starts))
    packing.write(users.folder, "lists", starts, indices, weighting.apply(weights, lengths[indices], user), sizes)

    def search(block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        starts, terms, values, sizes = packing.read(users.folder, "rows")
        own = np.arange(block * items.height, min((block + 1) * items.height, items.rows))
        rows = starts[own[0] : own[-1] + 2], terms, values, sizes[own]
        indptr, ids, similarities = neighbours(rows, own, packing.read(users.folder, "lists"), config)
        return np.diff(indptr), ids, similarities

    spark = data.interactions.sparkSession.sparkContext
    parts = deal(spark, range(items.blocks)).map(search).collect()
    found, ids, similarities = (np.concatenate(part) for part in zip(*parts, strict=True))
    return ItemKnn(np.concatenate([[0], np.cumsum(found)]), ids, similarities, counts > 0, config)


load = ItemKnn.load
