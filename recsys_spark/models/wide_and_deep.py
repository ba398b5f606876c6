"""Wide & Deep: a weight for each feature beside a perceptron of their vectors.

Cheng et al. 2016, "Wide & deep learning for recommender systems". The wide part learns by heart, the deep one
generalises. Crossed features come from the feed (`device_hour`).
"""

from __future__ import annotations

from torch import Tensor, nn

from recsys_spark.models import ranking
from recsys_spark.models.features import Features
from recsys_spark.models.ranking import DeepConfig, LabelConfig, Linear, RankingNetwork, perceptron

SHARES = ranking.FILES


class Config(DeepConfig, LabelConfig):
    """Sizes of Wide & Deep."""


class Network(RankingNetwork):
    """Logit = b + Σ_i w_i x_i + a · mlp([v_1; …; v_F])."""

    def __init__(self, config: Config, features: Features) -> None:
        super().__init__(config, features)
        self.wide = Linear(self.embed.features, config.buckets)
        self.deep = perceptron(self.width, config.hidden, config.dropout)
        self.out = nn.Linear(config.hidden[-1], 1, bias=False)

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        return self.wide(batch) + self.out(self.deep(self.embed(batch).flatten(1))).squeeze(1)
