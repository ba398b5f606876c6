"""What the ranking models share: features in, the logit of a label out, and how likely it is to happen as the loss.

A ranking network is built as `Network(config, features)` and has `logits(batch) -> [B]`. It trains on the feed of
impressions. When asked, it gets the same columns for pairs of a user and a candidate, see `torch_ranker`.

Shapes: B rows, F fields, D numbers in a field's vector.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from recsys_spark.errors import ConfigError
from recsys_spark.models.features import HISTORY, FeatureEmbedding, Features
from recsys_spark.models.torch_recommender import TorchConfig

FILES = ("models/ranking.py", "models/features.py", "models/torch_ranker.py", "models/torch_recommender.py")
"""What a ranking model `SHARES`."""


class RankingConfig(TorchConfig):
    """What every ranking model's config has."""

    dim: int = Field(16, ge=1)
    """D: length of the vector of a feature."""
    features: list[str] | None = None
    """Columns of the feed that describe a row; null = all that there are."""
    buckets: int = Field(1_000_000, ge=2)
    """Most rows of a table of vectors; the ids of a larger one are hashed into as many."""
    batch_size: int = Field(1024, ge=1)
    """Rows per step and rank."""


class LabelConfig(RankingConfig):
    """What the config of those that learn one label has as well."""

    label: str = "label_click"
    """The label that is learnt: one of the feed's, such as `label_positive` or `label_rating` of a log of ratings."""

    @property
    def labels(self) -> list[str]:
        """Columns of the feed that are learnt."""
        return [self.label]


class DeepConfig(RankingConfig):
    """What the config of those with a perceptron has as well."""

    hidden: list[int] = Field([128, 64], min_length=1)
    """Widths of the perceptron's layers."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """After each layer of the perceptron."""


class RankingNetwork(nn.Module, ABC):
    """The vectors of the features, and a loss; a model adds what it makes of them."""

    feed = "impressions"
    needs: tuple[str, ...] = ()
    """Features that it cannot do without."""
    pooled = True
    """Whether the history is one more field: the mean of its items."""

    def __init__(self, config: Any, features: Features) -> None:
        super().__init__()
        self.config = config
        self.features = features if config.features is None else features.only(config.features)
        kept = self.features if self.pooled else self.features.without(HISTORY)
        self.embed = FeatureEmbedding(kept, config.dim, config.buckets)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the feed that it trains on."""
        return (*self.features.columns, *self.config.labels)

    @property
    def width(self) -> int:
        """F × D: length of all fields' vectors in a row."""
        return self.embed.fields * self.config.dim

    def prepare(self, item_counts: Tensor, positives: Tensor | None = None) -> None:
        """Nothing is drawn."""

    @abstractmethod
    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the logit of the label of each row, [B]."""

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Binary cross-entropy of the label: mean of -y log σ(s) - (1 - y) log(1 - σ(s))."""
        return F.binary_cross_entropy_with_logits(self.logits(batch), batch[self.config.label])

    def score(self, batch: dict[str, Tensor]) -> Tensor:
        """Return what the rows are ranked by, [B], larger is better."""
        return self.logits(batch)


class Linear(nn.Module):
    """The first order of a row: a bias and a weight for each feature, [B]."""

    def __init__(self, features: Features, buckets: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.embed = FeatureEmbedding(features, 1, buckets)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.bias + self.embed(batch).sum(dim=(1, 2))


def columns_of(name: str, network: Any, config: Any, manifest: dict[str, Any]) -> tuple[str, ...]:
    """Return the columns that a model will read of a feed of impressions.

    Args:
        network: the model's class.
        manifest: the feed's.

    Raises:
        ConfigError: the feed lacks a feature or a label that the model wants.
    """
    there = Features.of(manifest).columns
    wanted = there if config.features is None else tuple(config.features)
    for feature in (*wanted, *network.needs):
        if feature not in there:
            raise ConfigError(
                f"{name} reads {feature!r}, and the feed of impressions has no such feature; it has {', '.join(there)}"
            )
        if feature not in wanted:
            raise ConfigError(f"models.{name}.features: {name} cannot do without {feature!r}; add it")
    for label in config.labels:
        if label not in manifest["labels"]:
            raise ConfigError(
                f"{name} learns {label!r}, and the feed of impressions has no such label; it has "
                f"{', '.join(manifest['labels'])}: name one of them in the model's parameters"
            )
    return (*(c for c in there if c in wanted), *config.labels)


def perceptron(width: int, hidden: list[int], dropout: float) -> nn.Sequential:
    """Return layers from [B, width] to [B, hidden[-1]], each with a ReLU and dropout behind it."""
    layers: list[nn.Module] = []
    for wide, narrow in zip([width, *hidden], hidden):  # noqa: B905 - the last width has no layer after it
        layers += [nn.Linear(wide, narrow), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)
