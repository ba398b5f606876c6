"""What the users near a history had: user-based neighbourhoods.

Sarwar, Karypis, Konstan & Riedl 2000, "Analysis of recommendation algorithms for e-commerce". The model keeps the
training users' rows, and finds the neighbours of any history when it is asked.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recsys_spark.models.base import NO_OPINION, Floats, TrainingData, UserBlock, read_card, write_card
from recsys_spark.models.knn.kernel import spread
from recsys_spark.models.knn.search import neighbours
from recsys_spark.models.knn.similarity import Histories, Similarity, Weighting

SHARES = ("models/knn",)
ROWS = "rows.npz"
"""The training users' rows in a saved model."""


class Config(Similarity):
    """Which users are neighbours."""


class UserKnn:
    """score(u, j) = sum over the neighbours v of u's history of similarity(u, v) × weight of j for v.

    A user's own training row is no neighbour.
    """

    name = "user_knn"
    dot_product = False
    rates = False

    def __init__(self, indptr: np.ndarray, items: np.ndarray, weights: Floats, n_items: int, config: Config) -> None:
        """Take the training users' items and weights in CSR: [n_users + 1] and twice [E]."""
        self.rows = indptr, items, weights
        self.config = config
        self.n_items = n_items
        n_users = len(indptr) - 1
        user = np.repeat(np.arange(n_users, dtype=np.int32), np.diff(indptr))
        counts = np.bincount(items, minlength=n_items)
        self.known = counts > 0
        self._weighting = Weighting.of(config, items, weights, n_items, int((np.diff(indptr) > 0).sum()))
        values = self._weighting.apply(weights, np.bincount(user, weights, n_users)[user], items)
        order = np.argsort(items, kind="stable")
        lists = np.concatenate([[0], np.cumsum(counts)]), user[order], values[order]
        self._lists = *lists, self._weighting.sizes(values, user, n_users)

    def score(self, users: UserBlock) -> Floats:
        """An item that no neighbour had scores 0; a history without a trained item nothing."""
        history = Histories.of(users, self.known, self.config)
        row = np.repeat(np.arange(len(users)), np.diff(history.offsets))
        lengths = np.bincount(row, history.weights, len(users))
        values = self._weighting.apply(history.weights, lengths[row], history.items) * history.recency
        sizes = self._weighting.sizes(values, row, len(users))
        near = neighbours((history.offsets, history.items, values, sizes), users.user_id, self._lists, self.config)
        scores = np.zeros((len(users), self.n_items), np.float32)
        spread(*near, *self.rows, scores)
        scores[:, ~self.known] = NO_OPINION
        scores[history.empty()] = NO_OPINION
        return scores

    def save(self, path: Path) -> None:
        indptr, items, weights = self.rows
        np.savez(path / ROWS, indptr=indptr, items=items, weights=weights)  # one file: it is replaced as a whole
        write_card(path, self.name, n_items=self.n_items, config=self.config.model_dump())

    @classmethod
    def load(cls, path: Path) -> UserKnn:
        card = read_card(path)
        with np.load(path / ROWS) as rows:
            return cls(
                rows["indptr"], rows["items"], rows["weights"], card["n_items"], Config.model_validate(card["config"])
            )


def fit(data: TrainingData, config: Config) -> UserKnn:
    """Pack the users' rows.

    Raises:
        DataError: there is nothing to train on, an id is no positive int, a weight is negative or no number.
    """
    from recsys_spark.models.knn import packing  # here, because serving a model must not need Spark

    users, items = packing.packed(data, config)
    return UserKnn(*packing.joined(users), items.rows, config)


load = UserKnn.load
