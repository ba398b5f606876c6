"""Factorisation machine: a weight for each feature, and for each two of them the product of their vectors.

Rendle 2010, "Factorization machines".
"""

from __future__ import annotations

from torch import Tensor

from recsys_spark.models import ranking
from recsys_spark.models.features import Features
from recsys_spark.models.ranking import LabelConfig, Linear, RankingNetwork

SHARES = ranking.FILES


class Config(LabelConfig):
    """Sizes of the factorisation machine."""


class Network(RankingNetwork):
    """Logit = b + Σ_i w_i x_i + Σ_{i<j} v_i · v_j x_i x_j."""

    def __init__(self, config: Config, features: Features) -> None:
        super().__init__(config, features)
        self.linear = Linear(self.embed.features, config.buckets)

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        return self.linear(batch) + interactions(self.embed(batch))


def interactions(fields: Tensor) -> Tensor:
    """Return the sum of the products of each two fields' vectors, [B] of [B, F, D].

    Σ_{i<j} v_i · v_j = ½ Σ_d ((Σ_i v_id)² - Σ_i v_id²), which is linear in F: lemma 3.1 of the paper.
    """
    return 0.5 * (fields.sum(dim=1).square() - fields.square().sum(dim=1)).sum(dim=1)
