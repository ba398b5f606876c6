"""The factorisation's parameters, and the model that both engines make: item factors, with exact fold-in.

Hu, Koren & Volinsky 2008, "Collaborative filtering for implicit feedback datasets"; Zhou et al. 2008 for the
regularisation scaled by the number of interactions. The model keeps the item side only: a user's vector is the
closed-form answer for the history at hand, which for the training history is the user factor that training ends with,
and which needs no retraining for a new user or day.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from recsys_spark.config import Section
from recsys_spark.models.als.kernel import solve_exactly
from recsys_spark.models.base import NO_OPINION, Floats, UserBlock, read_card, write_card


class Config(Section):
    """Parameters of the factorisation."""

    rank: int = Field(64, ge=1)
    """Length D of a factor."""
    iterations: int = Field(15, ge=1)
    """Each solves the users, then the items."""
    regularization: float = Field(0.05, ge=0)
    """Weight of the factors' squared length in what is minimised."""
    scale_regularization: bool = True
    """Multiply it by the number of a user's or item's interactions, as MLlib does; false: the same for all."""
    alpha: float = Field(1.0, gt=0)
    """Confidence in an interaction of weight w is 1 + alpha w (implicit only)."""
    implicit: bool = True
    """False: factorise the ratings instead, and predict them."""
    engine: Literal["blocked", "mllib"] = "blocked"
    """`blocked`: this project's, several times faster; `mllib`: Spark's own."""
    cg_steps: int = Field(3, ge=1)
    """Steps of conjugate gradient per user or item and iteration (engine blocked, implicit)."""
    max_broadcast_gb: float = Field(4.0, gt=0)
    """Most memory that the factors of one side may take; above it `mllib` takes over from `blocked`."""
    blocks: int | None = Field(None, ge=1)
    """Blocks of users, and of items, each solved by one task; null: one per million interactions, 8 at least."""
    warm_start: bool = False
    """Begin with the factors of the night before (engine blocked). Fewer `iterations` do then, but what a night gives
    depends on the nights before it."""


class AlsModel:
    """Scores are dot products of folded-in user vectors and item factors."""

    name = "als"
    dot_product = True

    def __init__(self, factors: Floats, known: np.ndarray, config: Config) -> None:
        """Take the item factors [n_items, D] and which rows of them were trained [n_items]."""
        self.factors = factors
        self.known = known
        self.config = config
        self.n_items = len(factors)
        self.rates = not config.implicit
        trained = factors[known].astype(np.float64)
        self._base = trained.T @ trained if config.implicit else np.zeros((factors.shape[1],) * 2)

    def item_vectors(self) -> Floats:
        return self.factors

    def item_mask(self) -> np.ndarray:
        return self.known

    def user_vectors(self, users: UserBlock) -> Floats:
        """Solve each user's least squares problem: [B, D], zeros for a history without a known item.

        Implicit: (Y'Y + Y_u' (C_u - I) Y_u + lam_u I) x = Y_u' c_u with c = 1 + alpha w over the user's
        items; explicit: (Y_u' Y_u + lam_u I) x = Y_u' r_u over the rated ones.
        """
        users = users.among(self.known)
        if self.config.implicit:
            left = self.config.alpha * np.abs(users.weights)
            right = 1 + left
        else:
            users = users.where(np.isfinite(users.ratings))
            right = users.ratings
            left = np.ones_like(right)
        vectors = np.zeros((len(users), self.factors.shape[1]), np.float32)
        solve_exactly(
            users.offsets, users.items, left.astype(np.float32), right.astype(np.float32), self.factors, self._base,
            self.config.regularization, self.config.scale_regularization, vectors,
        )  # fmt: skip
        return vectors

    def score(self, users: UserBlock) -> Floats:
        vectors = self.user_vectors(users)
        scores = vectors @ self.factors.T  # [B, n_items]
        scores[:, ~self.known] = NO_OPINION
        scores[~vectors.any(axis=1)] = NO_OPINION
        return scores

    rate = score

    def save(self, path: Path) -> None:
        np.save(path / "factors.npy", self.factors)
        np.save(path / "known.npy", self.known)
        write_card(path, self.name, n_items=self.n_items, config=self.config.model_dump())


def load(path: Path) -> AlsModel:
    """Read a saved model."""
    config = Config.model_validate(read_card(path)["config"])
    return AlsModel(np.load(path / "factors.npy"), np.load(path / "known.npy"), config)
