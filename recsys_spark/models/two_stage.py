"""Two stages: a retrieval model finds candidates in the whole catalogue, a ranking model puts them in order.

Nothing is trained here: both are models of the night. `recommendation/select.py` asks the first for candidates that the
user has not had, and the second for their order; what the ranker reads of users and items is of one moment.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from recsys_spark import models
from recsys_spark.config import Section
from recsys_spark.errors import ConfigError
from recsys_spark.models import moment as moments
from recsys_spark.models.base import NO_OPINION, Floats, Ints, Recommender, UserBlock, read_card, write_card

if TYPE_CHECKING:
    from recsys_spark.models.moment import Moment
    from recsys_spark.models.torch_ranker import TorchRanker

RETRIEVER, RANKER = "retriever", "ranker"
"""Folders of the saved model that hold the two."""
_PAIRS_AT_ONCE = 1 << 18


class Config(Section):
    """Which model finds, which one ranks, and how many items go from one to the other."""

    retriever: str = "als"
    """The model that finds the candidates: one of `train.baselines` or `train.deep`."""
    ranker: str | None = None
    """The model that ranks them: one of `train.rankers`; null = the first."""
    candidates: int = Field(200, ge=1)
    """Candidates of a user; never fewer than the items that are asked for."""


class TwoStage:
    """A retrieval model whose best items a ranking model puts in order."""

    name = "two_stage"
    dot_product = False
    rates = False

    def __init__(self, retriever: Recommender, ranker: TorchRanker, candidates: int, moment: Moment | None) -> None:
        """Put the two together.

        Args:
            moment: the features of users and items; without them it can be saved, but not asked.
        """
        self.retriever, self.ranker = retriever, ranker
        self.candidates = candidates
        self.moment = moment
        self.n_items = retriever.n_items

    def rank(self, users: UserBlock, items: Ints) -> Floats:
        """Return the ranker's scores of candidates [B, C]; `NO_OPINION` of item 0.

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
        """Return the ranker's score of every item that the retriever has an opinion on, [B, n_items]."""
        found = self.retriever.score(users)
        scores = np.full_like(found, NO_OPINION)
        catalogue = np.arange(self.n_items)
        for b in _blocks(len(users), max(1, _PAIRS_AT_ONCE // self.n_items)):
            there = found[b] > NO_OPINION
            scores[b] = self.rank(users.take(b.start, b.stop), np.where(there, catalogue, 0))
        return scores

    def save(self, path: Path) -> None:
        for part, model in ((RETRIEVER, self.retriever), (RANKER, self.ranker)):
            (path / part).mkdir()
            model.save(path / part)
        write_card(path, self.name, candidates=self.candidates)


def put_together(retriever: Path, ranker: Path, candidates: int, path: Path) -> None:
    """Write the two stages of two saved models into an existing folder."""
    shutil.copytree(retriever, path / RETRIEVER)
    shutil.copytree(ranker, path / RANKER)
    write_card(path, TwoStage.name, candidates=candidates)


def load(path: Path, moment: Path | None) -> TwoStage:
    """Read a saved model; `moment` is a folder of features, see `recsys_spark.models.moment`."""
    from recsys_spark.models import torch_ranker

    features = None if moment is None else moments.load(moment)
    return TwoStage(
        models.load(path / RETRIEVER), torch_ranker.load(path / RANKER), read_card(path)["candidates"], features
    )


def _blocks(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
