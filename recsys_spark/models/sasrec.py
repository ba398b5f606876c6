"""SASRec: self-attention over what came before (Kang & McAuley 2018, "Self-attentive sequential recommendation")."""

from __future__ import annotations

import torch
from torch import Tensor

from recsys_spark.models.attention import FILES, AttentionConfig, AttentionStack
from recsys_spark.models.sequence import NextItemNetwork, initialise

SHARES = FILES


class Config(AttentionConfig):
    """Sizes of SASRec."""


class Network(NextItemNetwork):
    """Each vector is made of the items up to its own; all positions of a row are trained in one pass."""

    slides = False

    def __init__(self, config: Config, n_users: int, n_items: int) -> None:
        super().__init__(config, n_items)
        self.reads = config.length
        self.stack = AttentionStack(config)
        initialise(self)

    def forward(self, items: Tensor) -> Tensor:
        return self.stack(self.item(items), torch.arange(items.shape[1], device=items.device))
