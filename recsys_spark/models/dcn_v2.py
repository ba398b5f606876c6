"""DCN-v2: layers that multiply the input with itself, beside a perceptron.

Wang et al. 2021, "DCN V2: improved deep & cross network and practical lessons for web-scale learning to rank systems":
x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, so that l layers have every product of up to l + 1 features.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys_spark.models import ranking
from recsys_spark.models.features import Features
from recsys_spark.models.ranking import DeepConfig, LabelConfig, RankingNetwork, perceptron

SHARES = ranking.FILES


class Config(DeepConfig, LabelConfig):
    """Sizes of DCN-v2."""

    crosses: int = Field(3, ge=1)
    """Cross layers."""


class Network(RankingNetwork):
    """Logit = a · [cross(x); mlp(x)] + b with x = [v_1; …; v_F]: the parallel structure of the paper."""

    def __init__(self, config: Config, features: Features) -> None:
        super().__init__(config, features)
        self.crosses = nn.ModuleList(nn.Linear(self.width, self.width) for _ in range(config.crosses))
        self.deep = perceptron(self.width, config.hidden, config.dropout)
        self.out = nn.Linear(self.width + config.hidden[-1], 1)

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        x = self.embed(batch).flatten(1)  # [B, F D]
        return self.out(torch.cat([self.cross(x), self.deep(x)], dim=1)).squeeze(1)

    def cross(self, first: Tensor) -> Tensor:
        """Return [B, F D] of [B, F D]."""
        x = first
        for layer in self.crosses:
            x = first * layer(x) + x
        return x
