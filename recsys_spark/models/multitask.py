"""What models of several labels share: a tower for each, a loss of all, and one score of what they foresee."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from recsys_spark.models import ranking
from recsys_spark.models.features import Features
from recsys_spark.models.ranking import DeepConfig, RankingNetwork, perceptron

FILES = ("models/multitask.py", *ranking.FILES)
"""What a model of several labels `SHARES`."""


class MultiTaskConfig(DeepConfig):
    """What the config of every model of several labels has; `hidden` are the experts' layers."""

    labels: list[str] = Field(["label_click", "label_purchase"], min_length=1)
    """The labels that are learnt, each by a tower of its own."""
    worth: list[float] = Field([1.0, 1.0], min_length=1)
    """What each label counts in the score, which is their expected worth: Σ worth × probability."""
    tower: int = Field(32, ge=1)
    """Width of the hidden layer of a label's tower."""

    @model_validator(mode="after")
    def _agrees(self) -> MultiTaskConfig:
        if len(self.labels) != len(self.worth):
            raise ValueError(f"worth has {len(self.worth)} numbers for {len(self.labels)} labels; give one for each")
        return self


class MultiTaskNetwork(RankingNetwork):
    """T labels; a model adds what each of their towers is given."""

    def __init__(self, config: Any, features: Features) -> None:
        super().__init__(config, features)
        E = config.hidden[-1]
        self.towers = nn.ModuleList(
            nn.Sequential(perceptron(E, [config.tower], config.dropout), nn.Linear(config.tower, 1))
            for _ in config.labels
        )

    @abstractmethod
    def mixtures(self, x: Tensor) -> list[Tensor]:
        """Return what each label's tower reads, T times [B, E], of all fields' vectors [B, F D]."""

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the logit of each label, [B, T]."""
        mixtures = self.mixtures(self.embed(batch).flatten(1))
        return torch.cat([tower(mixed) for tower, mixed in zip(self.towers, mixtures, strict=True)], dim=1)

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Binary cross-entropy, the sum over the labels."""
        truth = torch.stack([batch[label] for label in self.config.labels], dim=1)
        return F.binary_cross_entropy_with_logits(self.logits(batch), truth) * len(self.config.labels)

    def score(self, batch: dict[str, Tensor]) -> Tensor:
        logits = self.logits(batch)
        return torch.sigmoid(logits) @ logits.new_tensor(self.config.worth)


def experts(n: int, width: int, config: MultiTaskConfig) -> nn.ModuleList:
    """Return n perceptrons from [B, width] to [B, E]."""
    return nn.ModuleList(perceptron(width, config.hidden, config.dropout) for _ in range(n))


def mix(gate: nn.Module, x: Tensor, opinions: list[Tensor]) -> Tensor:
    """Return the experts' opinions, [B, E] each, weighed by a softmax of the gate's logits of x, as [B, E]."""
    weight = torch.softmax(gate(x), dim=1)  # [B, experts]
    return (weight[:, :, None] * torch.stack(opinions, dim=1)).sum(dim=1)
