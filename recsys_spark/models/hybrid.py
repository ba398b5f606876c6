"""Several baselines as one: their scores, made comparable per user, added up by weights that validation chose.

A part's scores of a user are normalised over what the user has not had, in one of two ways:

    zscore    (s - mean) / standard deviation; 0, the mean, for an item that the part cannot rank
    rank      1 / (60 + rank), best = 1; 0 for an item that the part cannot rank
              (Cormack, Clarke & Buettcher 2009, "Reciprocal rank fusion outperforms Condorcet")

The weights are drawn from a Dirichlet distribution. Each part alone is among the candidates, so that on validation no
blend is worse than its best part. The weights have then seen the validation part, as epochs chosen on it have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from recsys_spark import models
from recsys_spark.config import Section
from recsys_spark.errors import DataError
from recsys_spark.models.base import NO_OPINION, Floats, Recommender, TrainingData, UserBlock, read_card, write_card
from recsys_spark.native import kernel

PARTS = "parts"
"""Folder of the saved model that holds those of its parts."""
_RANK_OFFSET = 60
"""Of reciprocal rank fusion, as in its paper."""
_K = 10
_BLOCK_USERS = 64
_METHODS = ("zscore", "rank")


class Config(Section):
    """What is blended, and how the weights are looked for."""

    parts: list[str] = Field(["als", "ease"], min_length=2)
    """The models to blend, each of which `train.baselines` names before `hybrid`."""
    method: Literal["auto", "zscore", "rank"] = "auto"
    """How scores are normalised per user; `auto`: as does better on validation."""
    candidates: int = Field(64, ge=1)
    """Weights that are drawn and tried, beside each part alone and all alike."""
    valid_users: int = Field(10_000, ge=1)
    """Most validation users that they are tried on (a seeded sample)."""

    @field_validator("parts")
    @classmethod
    def _other_baselines(cls, parts: list[str]) -> list[str]:
        for part in parts:
            if part not in models.BASELINES or part == "hybrid":
                others = ", ".join(name for name in models.BASELINES if name != "hybrid")
                raise ValueError(f"parts: {part!r} cannot be a part of a hybrid; these can: {others}")
        if len(set(parts)) < len(parts):
            raise ValueError("parts names one of them twice; name each once")
        return parts


class Hybrid:
    """Scores are weighted sums of the parts' normalised scores."""

    name = "hybrid"
    dot_product = False
    rates = False

    def __init__(self, parts: Mapping[str, Recommender], weights: Mapping[str, float], method: str) -> None:
        """Take the parts and, by name, their weights; a part of weight 0 is left out."""
        self.parts = {name: part for name, part in parts.items() if weights[name] > 0}
        self.weights = {name: float(weights[name]) for name in self.parts}
        self.method = method
        self.n_items = max(part.n_items for part in self.parts.values())

    def score(self, users: UserBlock) -> Floats:
        scores = part_scores(self.parts.values(), users, self.n_items)
        if len(scores) == 1:  # nothing to normalise
            return scores[0]
        unseen = unseen_items(users, self.n_items)
        return blend([normalise(s, unseen, self.method) for s in scores], scores, np.array([*self.weights.values()]))

    def save(self, path: Path) -> None:
        for name, part in self.parts.items():
            folder = path / PARTS / name
            folder.mkdir(parents=True)
            part.save(folder)
        write_card(path, self.name, n_items=self.n_items, weights=self.weights, method=self.method)


def load(path: Path) -> Hybrid:
    """Read a saved model and its parts."""
    card = read_card(path)
    return Hybrid({name: models.load(path / PARTS / name) for name in card["weights"]}, card["weights"], card["method"])


def needs(config: Config) -> list[str]:
    """Name what `fit` wants beside the interactions."""
    return ["histories", *(f"models/{part}" for part in config.parts)]


def part_scores(parts: Iterable[Recommender], users: UserBlock, n_items: int) -> list[Floats]:
    """Return each part's scores [B, n_items], `NO_OPINION` for what is newer to it or no number."""
    found = []
    for part in parts:
        scores = np.full((len(users), n_items), NO_OPINION)
        own = part.score(users)
        scores[:, : own.shape[1]] = np.where(np.isfinite(own), own, NO_OPINION)
        found.append(scores)
    return found


def unseen_items(users: UserBlock, n_items: int) -> np.ndarray:
    """Return which items each user has not had, bool [B, n_items]; the unknown item 0 is none."""
    unseen = np.ones((len(users), n_items), bool)
    unseen[:, 0] = False
    known = users.items < n_items
    unseen[users.rows()[known], users.items[known]] = False
    return unseen


def normalise(scores: Floats, unseen: np.ndarray, method: str) -> Floats:
    """Make a part's scores comparable: over each user's unseen items, as the module says.

    An item of the history is put on the same scale, where it would stand if it were recommended once more.

    Returns:
        Finite numbers [B, n_items].
    """
    stated = scores > NO_OPINION
    if method == "zscore":
        over = stated & unseen
        n = np.maximum(over.sum(axis=1, keepdims=True), 1)
        wide = np.where(stated, scores, 0).astype(np.float64)
        mean = wide.sum(axis=1, keepdims=True, where=over) / n
        spread = np.sqrt(np.square(wide - mean).sum(axis=1, keepdims=True, where=over) / n)
        same = spread <= 1e-6 * np.abs(mean)  # all alike but for rounding
        return np.where(stated & ~same, (wide - mean) / np.where(same, 1, spread), 0).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")  # equal scores by smaller item id
    fresh = np.take_along_axis(unseen, order, axis=1)
    ranks = np.empty(scores.shape, np.int64)
    np.put_along_axis(ranks, order, np.cumsum(fresh, axis=1) + ~fresh, axis=1)
    return np.where(stated, 1 / (_RANK_OFFSET + ranks), 0).astype(np.float32)


def blend(normalised: list[Floats], scores: list[Floats], weights: np.ndarray) -> Floats:
    """Return the weighted sum [B, n_items]; a part alone gives its own scores.

    Args:
        normalised, scores: of each part, [B, n_items].
        weights: of each part, not all 0.
    """
    active = np.flatnonzero(weights)
    if len(active) == 1:
        return scores[active[0]]
    total = np.zeros_like(scores[0])
    stated = np.zeros(total.shape, bool)
    for p in active:
        total += np.float32(weights[p]) * normalised[p]
        stated |= scores[p] > NO_OPINION
    return np.where(stated, total, NO_OPINION)


def fit(data: TrainingData, config: Config) -> Hybrid:
    """Try the weights on the validation users, in Spark's tasks, and keep the best.

    Raises:
        DataError: nobody has both a training history and something held out after it.
    """
    methods = _METHODS if config.method == "auto" else (config.method,)
    size = len(config.parts)
    drawn = np.random.default_rng(data.seed).dirichlet(np.ones(size), config.candidates)
    candidates = np.concatenate([np.full((1, size), 1 / size), np.eye(size), drawn])
    paths = [data.models[part] for part in config.parts]
    found = np.nanmean(_try_all(data, config, paths, methods, candidates), axis=0)  # [methods, candidates]
    best = np.unravel_index(np.argmax(found), found.shape)  # the first of equals
    weights = dict(zip(config.parts, candidates[best[1]], strict=True))
    alone = dict(zip(config.parts, found[0, 1 : 1 + size], strict=True))
    data.log(
        1,
        {"valid_ndcg_10": float(found[best])}
        | {f"valid_ndcg_10_{part}": float(value) for part, value in alone.items()}
        | {f"weight_{part}": float(value) for part, value in weights.items()},
    )
    parts = {part: models.load(path) for part, path in zip(config.parts, paths, strict=True)}
    return Hybrid(parts, weights, methods[best[0]])


def _try_all(
    data: TrainingData, config: Config, paths: list[Path], methods: tuple[str, ...], candidates: np.ndarray
) -> np.ndarray:
    """Return NDCG@10 of every user, method and candidate."""
    from pyspark.sql import functions as F  # here, because serving a model must not need Spark
    from threadpoolctl import threadpool_limits

    from recsys_spark.session import deal, task_threads

    assert data.histories is not None  # see `needs`
    measured = data.histories.where("known = 'train' and size(held_out) > 0 and size(items) > 0")
    drawn = measured.orderBy(F.xxhash64("user_id", F.lit(data.seed)), "user_id").limit(config.valid_users)
    rows = drawn.select("user_id", "items", "weights", "ratings", "held_out").toPandas()
    if rows.empty:
        raise DataError(
            "no user has both a training history and a held-out item; a hybrid learns its weights from them"
        )
    rows = rows.sort_values("user_id")
    users = UserBlock.of(*(rows[name].to_numpy() for name in ("user_id", "items", "weights", "ratings")))
    truth = [np.unique(held) for held in rows["held_out"]]
    starts = range(0, len(users), _BLOCK_USERS)
    # blocks of users that no number of tasks changes, so that neither do the figures
    blocks = [(users.take(s, min(s + _BLOCK_USERS, len(users))), truth[s : s + _BLOCK_USERS]) for s in starts]
    spark = data.histories.sparkSession.sparkContext
    threads = task_threads(spark)

    def measure(blocks: Iterator[tuple[UserBlock, list[np.ndarray]]]) -> Iterator[np.ndarray]:
        parts = [models.load(path) for path in paths]
        with threadpool_limits(threads):
            for users, truth in blocks:
                yield try_block(parts, users, truth, methods, candidates)

    return np.concatenate(deal(spark, blocks).mapPartitions(measure).collect())


def try_block(
    parts: list[Recommender],
    users: UserBlock,
    truth: list[np.ndarray],
    methods: tuple[str, ...],
    candidates: np.ndarray,
) -> np.ndarray:
    """Return NDCG@10 of every user, method and candidate, [B, methods, candidates]."""
    n_items = max(part.n_items for part in parts)
    scores = part_scores(parts, users, n_items)
    unseen = unseen_items(users, n_items)
    held = UserBlock.of(users.user_id, truth)
    found = np.empty((len(users), len(methods), len(candidates)))
    for m, method in enumerate(methods):
        normalised = [normalise(s, unseen, method) for s in scores]
        for c, weights in enumerate(candidates):
            blended = np.where(unseen, blend(normalised, scores, weights), NO_OPINION)
            _ndcg(blended, held.offsets, held.items, found[:, m, c])
    return found


@kernel
def _ndcg(scores, offsets, held, out):  # type: ignore[no-untyped-def]
    """Put each user's NDCG@10 into `out`: what `evaluation.metrics` makes of the ten best, without a list of them.

    Args:
        scores: [B, n_items]; `NO_OPINION` for what may not be recommended.
        offsets, held: the distinct held-out items of each user, one user behind the other.
    """
    for b in range(len(scores)):
        row = scores[b]
        gain, relevant = 0.0, 0
        for e in range(offsets[b], offsets[b + 1]):
            item = held[e]
            if item == 0:
                continue
            relevant += 1
            if item >= len(row) or row[item] == -np.inf:
                continue
            better = 0
            for j in range(len(row)):
                better += row[j] > row[item] or (row[j] == row[item] and j < item)
            if better < _K:
                gain += 1 / np.log2(better + 2)
        ideal = 0.0
        for r in range(min(relevant, _K)):
            ideal += 1 / np.log2(r + 2)
        out[b] = gain / ideal if relevant else np.nan
