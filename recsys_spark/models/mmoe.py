"""MMoE: experts that all labels share, and for each label a gate that says whom to listen to.

Ma et al. 2018, "Modeling task relationships in multi-task learning with multi-gate mixture-of-experts".
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from recsys_spark.models import multitask
from recsys_spark.models.features import Features
from recsys_spark.models.multitask import MultiTaskConfig, MultiTaskNetwork, experts, mix

SHARES = multitask.FILES


class Config(MultiTaskConfig):
    """Sizes of MMoE."""

    experts: int = Field(4, ge=1)
    """Perceptrons that all labels share."""


class Network(MultiTaskNetwork):
    """Logit of label t = tower_t(Σ_e softmax(G_t x)_e expert_e(x)) with x = [v_1; …; v_F]."""

    def __init__(self, config: Config, features: Features) -> None:
        super().__init__(config, features)
        self.experts = experts(config.experts, self.width, config)
        self.gates = nn.ModuleList(nn.Linear(self.width, config.experts, bias=False) for _ in config.labels)

    def mixtures(self, x: Tensor) -> list[Tensor]:
        opinions = [expert(x) for expert in self.experts]
        return [mix(gate, x, opinions) for gate in self.gates]
