"""EASE: every item's score is a weighted sum of the items in the history, with weights in closed form.

Steck 2019, "Embarrassingly shallow autoencoders for sparse data". With X the users' histories, B minimises
|X - XB|² + λ|B|² with a diagonal of 0, and is B_ij = -P_ij / P_jj for P = (X'X + λI)⁻¹.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field
from scipy import sparse
from scipy.linalg import lapack

from recsys_spark.config import Section
from recsys_spark.errors import ConfigError
from recsys_spark.models.base import NO_OPINION, Floats, Ints, TrainingData, UserBlock, read_card, write_card
from recsys_spark.native import kernel

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from recsys_spark.models.blocks import Extent

_BYTES_PER_WEIGHT = 8 + 4
"""The inverse in float64, and B in float32 beside it."""


class Config(Section):
    """The penalty, what an interaction counts, and what the matrix may take."""

    regularization: float = Field(100.0, gt=0)
    """λ, the weight of B's squared length; the larger the data, the more of it: hundreds to thousands."""
    binary: bool = True
    """Every interaction counts 1; false: its weight."""
    half_life: float | None = Field(None, gt=0)
    """When scoring, an item of the history counts half as much for every so many items that came after it; null: as
    much as the others, which is the paper's model."""
    max_gb: float = Field(4.0, gt=0)
    """Most memory on the driver for the items × items matrix; a larger catalogue is refused. 4 are 18,000 items."""
    blocks: int | None = Field(None, ge=1)
    """Blocks of users, and of items, each a task's; null: one per million interactions, 8 at least."""


class Ease:
    """Scores are histories × B; not trained anew, B serves any weighing of the history."""

    name = "ease"
    dot_product = False
    rates = False

    def __init__(self, weights: Floats, items: Ints, n_items: int, config: Config) -> None:
        """Take B.

        Args:
            weights: B, float32 [M, M]: row = item in the history, column = item scored.
            items: the M trained items in order.
        """
        self.weights = weights
        self.items = items
        self.n_items = n_items
        self.config = config
        self._place = np.full(n_items, -1)
        self._place[items] = np.arange(len(items))

    def score(self, users: UserBlock) -> Floats:
        users = users.among(self._place >= 0)
        values = np.ones(len(users.items), np.float32) if self.config.binary else users.weights
        if self.config.half_life is not None:
            values = (values * 0.5 ** (users.newer() / self.config.half_life)).astype(np.float32)
        shape = len(users), len(self.items)
        histories = sparse.csr_array((values, self._place[users.items], users.offsets), shape)
        scores = np.full((len(users), self.n_items), NO_OPINION)
        scores[:, self.items] = histories @ self.weights  # [B, M]
        scores[np.diff(users.offsets) == 0] = NO_OPINION
        return scores

    def save(self, path: Path) -> None:
        np.save(path / "weights.npy", self.weights)
        np.save(path / "items.npy", self.items)
        write_card(path, self.name, n_items=self.n_items, config=self.config.model_dump())


def load(path: Path) -> Ease:
    """Read a saved model; B is mapped, so that the tasks of a machine hold it once between them."""
    card = read_card(path)
    weights = np.asarray(np.load(path / "weights.npy", mmap_mode="r"))
    return Ease(weights, np.load(path / "items.npy"), card["n_items"], Config.model_validate(card["config"]))


def fit(data: TrainingData, config: Config) -> Ease:
    """Add up X'X in Spark's tasks and invert it on the driver, in float64.

    Raises:
        ConfigError: the matrix is larger than `max_gb`, or λ too small for it to be inverted.
        DataError: there is no interaction, an id is no positive int, a weight is negative or no number.
    """
    from recsys_spark.models.blocks import check  # here, because serving a model must not need Spark

    value = "1" if config.binary else "weight"
    rows = data.interactions.selectExpr("user_id", "item_id", f"float({value}) as value")
    rows, extent = check(rows, "weight", "EASE cannot use them")
    distinct = rows.select("item_id").distinct().count()
    needed = distinct**2 * _BYTES_PER_WEIGHT / 1e9
    if needed > config.max_gb:
        raise ConfigError(
            f"ease: {distinct} items make a matrix of {needed:.1f} GB, models.ease.max_gb is {config.max_gb}; "
            "raise it, raise dataset.k_core, or leave ease out of train.baselines"
        )
    gram, items = _gram(rows, extent, extent.blocks(config.blocks), data.scratch.absolute())
    return Ease(solve(gram, config.regularization), items, extent.items, config)


def _gram(rows: DataFrame, extent: Extent, blocks: int, folder: Path) -> tuple[np.ndarray, Ints]:
    """Return X'X of the trained items, float64 [M, M], and which they are.

    A task has a block of items and writes their rows of X'X: the same bytes on whatever executor, in whatever order.
    """
    from recsys_spark.models.blocks import Side, pack
    from recsys_spark.session import deal

    n_items = extent.items
    users, items = Side.both(extent, blocks, folder)
    pack(rows, users, items)
    degrees = np.concatenate([np.diff(items.csr(block)[0]) for block in range(items.blocks)])[:n_items]
    trained = np.flatnonzero(degrees)
    place = np.full(n_items, -1, np.int32)
    place[trained] = np.arange(len(trained))
    path = folder / "gram.npy"
    np.lib.format.open_memmap(path, "w+", np.float64, (len(trained), len(trained))).flush()

    def add_up(block: int) -> None:
        indptr, indices, values = items.csr(block)
        own = place[block * items.height : (block + 1) * items.height]
        there = np.flatnonzero(own >= 0)
        if len(there) == 0:
            return
        part = np.zeros((len(there), len(trained)))
        local = np.full(items.height, -1)
        local[there] = np.arange(len(there))
        for u in range(users.blocks):
            _products(indptr, indices, values, local, *users.csr(u), u * users.height, place, part)
        gram = np.load(path, mmap_mode="r+")
        gram[own[there[0]] : own[there[-1]] + 1] = part
        gram.flush()

    deal(rows.sparkSession.sparkContext, range(items.blocks)).foreach(add_up)
    return np.load(path), trained


@kernel
def _products(indptr, indices, values, local, user_indptr, user_items, user_values, first, place, out):  # type: ignore[no-untyped-def]
    """Add to out[local[i], place[j]] the products x_ui x_uj of the users from `first` on who lie in this block."""
    last = first + len(user_indptr) - 1
    for i in range(len(indptr) - 1):
        for e in range(indptr[i], indptr[i + 1]):
            u, x = indices[e], np.float64(values[e])
            if first <= u < last:
                for f in range(user_indptr[u - first], user_indptr[u - first + 1]):
                    out[local[i], place[user_items[f]]] += x * user_values[f]


def solve(gram: np.ndarray, regularization: float) -> Floats:
    """Return B, float32 [M, M], for X'X, float64 [M, M], which is overwritten.

    Raises:
        ConfigError: X'X + λI is not positive definite in float64.
    """
    size = len(gram)
    diagonal = np.arange(size)
    gram[diagonal, diagonal] += regularization
    # LAPACK works in place on columns: the transpose of a symmetric matrix is itself, column by column
    factor, failed = lapack.dpotrf(gram.T, lower=1, clean=0, overwrite_a=1)
    if not failed:
        inverse, failed = lapack.dpotri(factor, lower=1, overwrite_c=1)
    if failed:
        raise ConfigError(f"models.ease.regularization: {regularization} is too small for X'X to be inverted")
    weights = np.empty((size, size), np.float32)
    scale = -1 / inverse[diagonal, diagonal]
    for row in range(size):  # dpotri fills the lower half
        weights[row, :row] = inverse[row, :row] * scale[:row]
        weights[row, row:] = inverse[row:, row] * scale[row:]
    weights[diagonal, diagonal] = 0
    return weights
