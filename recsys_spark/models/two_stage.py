"""Two stages: a retrieval model finds candidates in the whole catalogue, and a ranking model has a say in their order.

Nothing is trained here: both are models of the night. `recommendation/select.py` asks the first for candidates that the
user has not had, and the second for what it makes of them; what the ranker reads of users and items is of one moment.

    score = (1 - weight) z(ranker) + weight z(retriever),    z(s) = (s - mean) / standard deviation

with mean and deviation over the user's candidates, so that neither's scale counts. A stage alone, by a weight of 0 or
1, keeps its own scores. `training/two_stage.py` chooses the weight.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from recsys_spark import models
from recsys_spark.config import Section
from recsys_spark.errors import ConfigError
from recsys_spark.models import hybrid
from recsys_spark.models import moment as moments
from recsys_spark.models.base import NO_OPINION, Floats, Ints, Recommender, UserBlock, read_card, write_card

if TYPE_CHECKING:
    from recsys_spark.models.moment import Moment
    from recsys_spark.models.torch_ranker import TorchRanker

RETRIEVER, RANKER = "retriever", "ranker"
"""Folders of the saved model that hold the two."""
_PAIRS_AT_ONCE = 1 << 18


class Config(Section):
    """Which model finds, which one ranks, how many items go from one to the other, and what each one's word counts."""

    retriever: str = "als"
    """The model that finds the candidates: one of `train.baselines` or `train.deep`."""
    ranker: str | None = None
    """The model that ranks them: one of `train.rankers`; null = the first."""
    candidates: int = Field(200, ge=1)
    """Candidates of a user; never fewer than the items that are asked for."""
    weight: Literal["auto"] | float = "auto"
    """What the retriever's score counts beside the ranker's: 0 = the ranker's order alone, 1 = the retriever's alone;
    `auto`: what does best on validation, by NDCG@10 of at most `train.valid_users` users."""

    @field_validator("weight", mode="before")
    @classmethod
    def _share(cls, weight: Any) -> Any:
        if weight != "auto" and not (isinstance(weight, int | float) and 0 <= weight <= 1):
            raise ValueError(f"weight: {weight!r} is neither 'auto' nor a number from 0 to 1; give one of them")
        return weight


class TwoStage:
    """A retrieval model, and a ranking model that has a say in the order of its best items."""

    name = "two_stage"
    dot_product = False
    rates = False

    def __init__(
        self, retriever: Recommender, ranker: TorchRanker, candidates: int, moment: Moment | None, weight: float = 0.0
    ) -> None:
        """Put the two together.

        Args:
            moment: the features of users and items; without them it can be saved, but not asked.
            weight: what the retriever's scores count, 0 to 1.
        """
        self.retriever, self.ranker = retriever, ranker
        self.candidates = candidates
        self.moment = moment
        self.weight = weight
        self.n_items = retriever.n_items

    def rank(self, users: UserBlock, items: Ints, found: Floats, offered: np.ndarray) -> Floats:
        """Return the scores of candidates [B, C]; `NO_OPINION` of item 0.

        Args:
            found: the retriever's scores [B, C].
            offered: over which of them the stages are made comparable, bool [B, C]: the user's best `candidates`,
                however many were asked for.

        Raises:
            ConfigError: it has no features to rank by.
        """
        if self.weight == 1:  # whatever the ranker has to say, it does not count
            return found
        ranked = self.ranked(users, items)
        return ranked if self.weight == 0 else weigh(ranked, found, offered, self.weight)

    def ranked(self, users: UserBlock, items: Ints) -> Floats:
        """Return the ranker's own scores of candidates [B, C]; `NO_OPINION` of item 0.

        Raises:
            ConfigError: it has no features to rank by.
        """
        if self.moment is None:
            raise ConfigError(
                f"{self.name} ranks by features of users and items, and the data set has none; add impressions to "
                "dataset.feeds"
            )
        return self.ranker.rank(users, items, self.moment)

    def score(self, users: UserBlock) -> Floats:
        """Return the score, as a candidate, of every item that the retriever has an opinion on, [B, n_items]."""
        (found,) = hybrid.part_scores([self.retriever], users, self.n_items)
        found[:, 0] = NO_OPINION
        scores = np.full_like(found, NO_OPINION)
        catalogue = np.arange(self.n_items)
        for b in _blocks(len(users), max(1, _PAIRS_AT_ONCE // self.n_items)):
            some = users.take(b.start, b.stop)
            items = np.where(found[b] > NO_OPINION, catalogue, 0)
            offered = best_of(np.where(hybrid.unseen_items(some, self.n_items), found[b], NO_OPINION), self.candidates)
            scores[b] = self.rank(some, items, found[b], offered)
        return scores

    def save(self, path: Path) -> None:
        for part, model in ((RETRIEVER, self.retriever), (RANKER, self.ranker)):
            (path / part).mkdir()
            model.save(path / part)
        write_card(path, self.name, candidates=self.candidates, weight=self.weight)


def put_together(retriever: Path, ranker: Path, candidates: int, weight: float, path: Path) -> None:
    """Write the two stages of two saved models into an existing folder."""
    shutil.copytree(retriever, path / RETRIEVER)
    shutil.copytree(ranker, path / RANKER)
    write_card(path, TwoStage.name, candidates=candidates, weight=weight)


def load(path: Path, moment: Path | None) -> TwoStage:
    """Read a saved model; `moment` is a folder of features, see `recsys_spark.models.moment`."""
    from recsys_spark.models import torch_ranker

    features, card = None if moment is None else moments.load(moment), read_card(path)
    return TwoStage(
        models.load(path / RETRIEVER), torch_ranker.load(path / RANKER), card["candidates"], features,
        card.get("weight", 0.0),  # before there was one, the order was the ranker's alone
    )  # fmt: skip


def weigh(ranked: Floats, found: Floats, offered: np.ndarray, weight: float) -> Floats:
    """Return the scores that the module speaks of, [B, C]; `NO_OPINION` where neither stage has an opinion.

    Args:
        ranked, found: the ranker's and the retriever's scores [B, C]; `NO_OPINION` is no score, and counts as the mean.
        offered: over which items mean and deviation are taken, bool [B, C].
        weight: of the retriever, 0 to 1.
    """
    both = [ranked, found]
    return hybrid.blend([hybrid.normalise(s, offered, "zscore") for s in both], both, np.array([1 - weight, weight]))


def best_of(scores: Floats, n: int) -> np.ndarray:
    """Tell which items are among each user's n best, equal scores by smaller item id, bool [B, n_items].

    >>> best_of(np.array([[NO_OPINION, 3, 5, 3, NO_OPINION]], np.float32), 2)
    array([[False,  True,  True, False, False]])
    """
    best = np.zeros(scores.shape, bool)
    np.put_along_axis(best, np.argsort(-scores, axis=1, kind="stable")[:, :n], True, axis=1)
    return best & (scores > NO_OPINION)


def _blocks(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
