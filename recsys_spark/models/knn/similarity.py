"""When two items, or two users, are alike: the parameters, and what an interaction counts.

A *document* is what is compared and its *terms* are what it is compared by: items by the users who had them in
`item_knn`, users by the items that they had in `user_knn`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from recsys_spark.config import Section
from recsys_spark.models.base import Floats, UserBlock


class Similarity(Section):
    """The parameters that both neighbourhood models have."""

    similarity: Literal["cosine", "jaccard", "bm25"] = "cosine"
    """`cosine` of the weights; `jaccard`: the share that both have of what either has; `bm25`: sum of the products of
    BM25 weights."""
    neighbours: int = Field(100, ge=1)
    """How many neighbours are kept; equally similar ones by smaller id."""
    shrinkage: float = Field(0.0, ge=0)
    """A similarity that n shared interactions speak for is multiplied by n / (n + shrinkage)."""
    discount: float = Field(1.0, ge=0)
    """Cosine: what a long row of weights counts less, its length to this power; 0: nothing, 1: rows of length 1."""
    k1: float = Field(1.2, ge=0)
    """BM25: how soon further weight counts no more, and, with `b`, how much a long row counts less."""
    b: float = Field(0.75, ge=0, le=1)
    """BM25: how much of that goes by the row's own length."""
    use_weights: bool = False
    """Weigh interactions as the data set does; false: all of them alike."""
    half_life: float | None = Field(None, gt=0)
    """An item of a history counts half of one that is so many places newer (Ding & Li 2005 have the like of it for
    time); null: its age does not matter. Jaccard in user_knn takes no notice."""
    max_user_items: int | None = Field(1_000, ge=1)
    """Of a user with more items in training, a seeded sample of so many; null: all. The time for a user's pairs grows
    with the square."""


@dataclass(frozen=True)
class Weighting:
    """What the weight of an interaction becomes in the documents' vectors.

    Attributes:
        terms: factor of each term, float64 [T].
        mean_length: mean sum of a document's weights.
    """

    config: Similarity
    terms: np.ndarray
    mean_length: float

    @classmethod
    def of(cls, config: Similarity, terms: np.ndarray, weights: Floats, n_terms: int, documents: int) -> Weighting:
        """Learn it from the training interactions.

        Cosine: 1 / |t|^discount, with |t| the length of a term's row of weights; with discount 1 these are the rows of
        length 1 of Deshpande & Karypis 2004, "Item-based top-N recommendation algorithms". BM25: the inverse document
        frequency ln N - ln(1 + n_t), as the library implicit has it, with N the documents that have a term at all.

        Args:
            terms: the term of each interaction, [E].
            weights: its weight, [E].
            documents: how many have a term.
        """
        factors = np.ones(n_terms)
        if config.similarity == "bm25":
            factors = np.log(documents) - np.log1p(np.bincount(terms, minlength=n_terms))
        elif config.similarity == "cosine":
            squares = np.bincount(terms, weights.astype(np.float64) ** 2, n_terms)
            factors = np.where(squares > 0, squares, 1.0) ** (-config.discount / 2)
        return cls(config, factors, float(weights.sum(dtype=np.float64)) / documents)

    def apply(self, weights: np.ndarray, lengths: np.ndarray, terms: np.ndarray) -> Floats:
        """Return the values in the documents' vectors, float32 [E].

        BM25: w (k1 + 1) / (k1 (1 - b + b length / mean length) + w) times the inverse document frequency (Robertson &
        Walker 1994).

        Args:
            weights: of the interactions, [E].
            lengths: sum of the weights of each one's document, [E].
            terms: its term, [E].
        """
        values = weights.astype(np.float64)
        if self.config.similarity == "bm25":
            k1, b = self.config.k1, self.config.b
            norm = k1 * (1 - b + b * lengths / max(self.mean_length, 1e-30))
            values = values * (k1 + 1) / np.where(values > 0, norm + values, 1.0)
        return (values * self.terms[terms]).astype(np.float32)

    def sizes(self, values: Floats, documents: np.ndarray, n: int) -> np.ndarray:
        """Return what the kernel divides by: lengths (cosine), counts of terms (jaccard), or 1; float64 [n].

        Args:
            values: as `apply` returned them, [E].
            documents: the document of each, [E].
        """
        if self.config.similarity == "cosine":
            return np.sqrt(np.bincount(documents, values.astype(np.float64) ** 2, n))
        if self.config.similarity == "jaccard":
            return np.bincount(documents, minlength=n).astype(np.float64)
        return np.ones(n)


@dataclass(frozen=True)
class Histories:
    """The trained part of a block's histories.

    Attributes:
        offsets: user b's are items[offsets[b]:offsets[b + 1]], [B + 1].
        items: int32 [H].
        weights: 1 for all without `use_weights`, float32 [H].
        recency: what each counts beside its weight, float32 [H].
    """

    offsets: np.ndarray
    items: np.ndarray
    weights: Floats
    recency: Floats

    @classmethod
    def of(cls, users: UserBlock, known: np.ndarray, config: Similarity) -> Histories:
        """Leave out what was not trained.

        Args:
            known: which items were trained, [n_items].
        """
        users = users.among(known)
        weights = np.ones(len(users.items), np.float32)
        recency = np.ones_like(weights)
        if config.use_weights:
            weights = np.nan_to_num(np.maximum(users.weights, 0)).astype(np.float32)
        if config.half_life is not None:
            recency = np.exp2(-users.newer() / config.half_life).astype(np.float32)
        return cls(users.offsets, users.items.astype(np.int32), weights, recency)

    def empty(self) -> np.ndarray:
        """Return who has nothing that was trained, bool [B]."""
        return self.offsets[:-1] == self.offsets[1:]
