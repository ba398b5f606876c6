"""DeepFM: a factorisation machine and a perceptron on the same vectors.

Guo et al. 2017, "DeepFM: a factorization-machine based neural network for CTR prediction".
"""

from __future__ import annotations

from torch import Tensor, nn

from recsys_spark.models import ranking
from recsys_spark.models.features import Features
from recsys_spark.models.fm import interactions
from recsys_spark.models.ranking import DeepConfig, LabelConfig, Linear, RankingNetwork, perceptron

SHARES = (*ranking.FILES, "models/fm.py")


class Config(DeepConfig, LabelConfig):
    """Sizes of DeepFM."""


class Network(RankingNetwork):
    """Logit = fm(v_1, …, v_F) + a · mlp([v_1; …; v_F])."""

    def __init__(self, config: Config, features: Features) -> None:
        super().__init__(config, features)
        self.linear = Linear(self.embed.features, config.buckets)
        self.deep = perceptron(self.width, config.hidden, config.dropout)
        self.out = nn.Linear(config.hidden[-1], 1, bias=False)

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        fields = self.embed(batch)  # [B, F, D]
        return self.linear(batch) + interactions(fields) + self.out(self.deep(fields.flatten(1))).squeeze(1)
