"""DIN: what of a user's history matters depends on the candidate.

Zhou et al. 2018, "Deep interest network for click-through rate prediction". The weights of the history's items are no
softmax: their sum says how much of the history speaks for the candidate.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys_spark.models import ranking
from recsys_spark.models.features import HISTORY, ITEM, Features
from recsys_spark.models.ranking import DeepConfig, LabelConfig, RankingNetwork

SHARES = ranking.FILES


class Config(DeepConfig, LabelConfig):
    """Sizes of DIN."""

    attention: int = Field(32, ge=1)
    """Width of the hidden layer that weighs an item of the history."""


class Network(RankingNetwork):
    """Logit = mlp([v_1; …; v_F; Σ_l a(h_l, c) h_l]) with the history's vectors h_l and the candidate's c."""

    needs = (ITEM, HISTORY)
    pooled = False

    def __init__(self, config: Config, features: Features) -> None:
        super().__init__(config, features)
        D = config.dim
        self.attention = nn.Sequential(nn.Linear(4 * D, config.attention), nn.PReLU(), nn.Linear(config.attention, 1))
        layers: list[nn.Module] = []
        for wide, narrow in zip([self.width + D, *config.hidden], config.hidden):  # noqa: B905 - as in `perceptron`
            layers += [nn.Linear(wide, narrow), nn.PReLU(), nn.Dropout(config.dropout)]
        self.deep = nn.Sequential(*layers, nn.Linear(config.hidden[-1], 1))

    def interest(self, candidate: Tensor, history: Tensor) -> Tensor:
        """Return what the history says of a candidate, [B, D], of items [B] and histories [B, L]."""
        c = self.embed.look_up(ITEM, candidate)[:, None].expand(-1, history.shape[1], -1)  # [B, L, D]
        h = self.embed.look_up(ITEM, history)  # [B, L, D]; 0 where there is no item
        weight = self.attention(torch.cat([h, c, h - c, h * c], dim=2))  # [B, L, 1]
        return (weight * h).sum(dim=1)

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        interest = self.interest(batch[ITEM], batch[HISTORY])
        return self.deep(torch.cat([self.embed(batch).flatten(1), interest], dim=1)).squeeze(1)
