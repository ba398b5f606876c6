"""Contract 3: a recommender scores a block of users against the whole catalogue."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

NO_OPINION = np.float32(-np.inf)
"""Score of an item that the model cannot rank for a user; a row of nothing else: an unknown user."""


@dataclass(frozen=True)
class UserBlock:
    """B users and what is known of them; histories lie one behind the other, oldest item first.

    Attributes:
        user_id: dense ids, [B]; 0 is the unknown user.
        offsets: user b's history is items[offsets[b]:offsets[b + 1]], [B + 1].
        items: distinct dense item ids of each history, [H].
        weights: weight of each, [H].
        ratings: last rating of each, NaN where there is none, [H].
    """

    user_id: Ints
    offsets: Ints
    items: Ints
    weights: Floats
    ratings: Floats

    def __len__(self) -> int:
        return len(self.user_id)

    @classmethod
    def of(
        cls,
        user_id: Sequence[int] | NDArray[Any],
        items: Sequence[Any] | NDArray[Any],
        weights: Sequence[Any] | NDArray[Any] | None = None,
        ratings: Sequence[Any] | NDArray[Any] | None = None,
    ) -> UserBlock:
        """Build a block from one list per user; weights default to 1, ratings to none.

        >>> UserBlock.of([7, 8], [[3, 1], []]).offsets
        array([0, 2, 2])
        """
        offsets = np.zeros(len(user_id) + 1, np.int64)
        np.cumsum([len(i) for i in items], out=offsets[1:])
        n = int(offsets[-1])
        return cls(
            np.asarray(user_id, np.int64),
            offsets,
            _flat(items, np.int64),
            _flat(weights, np.float32) if weights is not None else np.ones(n, np.float32),
            _flat(ratings, np.float32) if ratings is not None else np.full(n, np.nan, np.float32),
        )

    def rows(self) -> Ints:
        """Return the row in the block that each history entry belongs to, [H]."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def take(self, start: int, stop: int) -> UserBlock:
        """Return the users from `start` to before `stop`."""
        h = slice(self.offsets[start], self.offsets[stop])
        offsets = self.offsets[start : stop + 1] - self.offsets[start]
        return UserBlock(self.user_id[start:stop], offsets, self.items[h], self.weights[h], self.ratings[h])

    def only(self, rows: NDArray[Any]) -> UserBlock:
        """Return some of the users, by their rows, in the order of the block.

        >>> UserBlock.of([7, 8, 9], [[3, 1], [5], [2]]).only(np.array([0, 2])).items
        array([3, 1, 2])
        """
        asked = np.zeros(len(self), bool)
        asked[rows] = True
        h = asked[self.rows()]
        offsets = np.concatenate([[0], np.cumsum(np.diff(self.offsets)[asked])])
        return UserBlock(self.user_id[asked], offsets, self.items[h], self.weights[h], self.ratings[h])

    def where(self, keep: NDArray[np.bool_]) -> UserBlock:
        """Return the same users with the history entries for which `keep` holds, [H].

        >>> UserBlock.of([7, 8], [[3, 1], [5]]).where(np.array([False, True, True])).offsets
        array([0, 1, 2])
        """
        offsets = np.concatenate([[0], np.cumsum(keep)])[self.offsets]
        return UserBlock(self.user_id, offsets, self.items[keep], self.weights[keep], self.ratings[keep])

    def among(self, known: NDArray[np.bool_]) -> UserBlock:
        """Return the same users with the items of their histories that are `known`, [n_items]; newer ones are not."""
        return self.where((self.items < len(known)) & known[np.minimum(self.items, len(known) - 1)])

    def newer(self) -> Ints:
        """Return how many entries of its history are newer than each, [H]."""
        return np.repeat(self.offsets[1:], np.diff(self.offsets)) - 1 - np.arange(len(self.items))

    def weight_of(self, items: Ints) -> NDArray[np.float64]:
        """Return the weights of items [B, C] in each user's history, 0 where it has them not, [B, C].

        >>> UserBlock.of([7, 8], [[3, 1], [5]], [[2.0, 4.0], [1.0]]).weight_of(np.array([[1, 2], [1, 5]])).tolist()
        [[4.0, 0.0], [0.0, 1.0]]
        """
        n = max(int(items.max(initial=0)), int(self.items.max(initial=0))) + 1
        there = self.rows() * n + self.items
        order = np.argsort(there)
        there, weights = np.append(there[order], -1), np.append(self.weights[order], 0.0)
        wanted = np.arange(len(self))[:, None] * n + items
        at = np.searchsorted(there[:-1], wanted)
        return np.where(there[at] == wanted, weights[at], 0.0)

    def last_items(self, length: int) -> Ints:
        """Return each history's newest items, padded with 0 on the left, [B, length].

        >>> UserBlock.of([7, 8], [[3, 1, 2], [5]]).last_items(2)
        array([[1, 2],
               [0, 5]])
        """
        padded = np.zeros((len(self), length), np.int64)
        from_end = self.newer() + 1
        keep = from_end <= length
        padded[self.rows()[keep], length - from_end[keep]] = self.items[keep]
        return padded


def _flat(lists: Sequence[Any] | NDArray[Any], kind: type) -> NDArray[Any]:
    return np.concatenate([np.asarray(x, kind) for x in lists]) if len(lists) else np.empty(0, kind)


class Recommender(Protocol):
    """Anything that scores users against the whole catalogue; top-K and evaluation know only this.

    A model with `dot_product` has `user_vectors(users) -> [B, D]`, 0 for whom it cannot tell,
    `item_vectors() -> [n_items, D]` and `item_mask() -> bool [n_items]`, the items that it can rank: their
    products are its scores. A model with `rates` has
    `rate(users) -> float32[B, n_items]` on the scale of the log's ratings.
    """

    name: str
    n_items: int
    """Columns of the scores: item ids 0 (the unknown) to n_items - 1."""
    dot_product: bool
    rates: bool

    def score(self, users: UserBlock) -> Floats:
        """Return scores [B, n_items], larger is better; `NO_OPINION` where the model cannot tell."""
        ...

    def save(self, path: Path) -> None:
        """Write the model into an existing empty folder."""
        ...


def _no_log(step: int, figures: dict[str, float]) -> None:
    pass


@dataclass(frozen=True)
class TrainingData:
    """What a baseline is fitted on. Beyond the interactions it gets what its module's `needs(config)` names.

    Attributes:
        interactions: the training rows of the core, as `INTERACTIONS` has them.
        seed: of everything that is drawn.
        scratch: an empty folder on the disk that driver and executors share; removed after the fit.
        items: the catalogue (`ITEMS`), with the dense id in `item_id`; for `items`.
        histories: the table `HISTORIES`; for `histories`. Whoever fits on more than `known = train` with its
            held-out items, which are the valid part, has seen the test.
        segments: `user_id` and `segment` (string) of the users who have one; for `segments/ATTRIBUTE`.
        models: saved models of the same night by name; for `models/NAME`.
        previous: the saved model of the newest earlier night, if there is one and its ids are the same; for
            `previous`.
        log: takes a step's number and its figures, such as the loss of an iteration.
    """

    interactions: DataFrame
    seed: int
    scratch: Path
    items: DataFrame | None = None
    histories: DataFrame | None = None
    segments: DataFrame | None = None
    models: Mapping[str, Path] = field(default_factory=dict)
    previous: Path | None = None
    log: Callable[[int, dict[str, float]], None] = _no_log


def write_card(path: Path, model: str, **entries: Any) -> None:
    """Write `model.json`: which model this is, its config and sizes."""
    (path / "model.json").write_text(json.dumps({"model": model, **entries}, indent=1), encoding="utf-8")


def read_card(path: Path) -> dict[str, Any]:
    """Read `model.json` of a saved model."""
    return json.loads((path / "model.json").read_text(encoding="utf-8"))
