"""SASRec: self-attention over what came before (Kang & McAuley 2018, "Self-attentive sequential recommendation")."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys_spark.models.dropout import Dropout
from recsys_spark.models.sequence import FILES, Block, NextItemNetwork, SequenceConfig, initialise

SHARES = FILES


class Config(SequenceConfig):
    """Sizes of SASRec."""

    length: int = Field(50, ge=1)
    """Newest items of a history that are read; positions beyond `dataset.history_length` are never trained."""
    blocks: int = Field(2, ge=1)
    """Attention blocks, one on the other."""
    heads: int = Field(1, ge=1)
    """Parts that attention is computed in; `dim` is a multiple of them."""
    hidden: int = Field(64, ge=1)
    """Width of each block's feed-forward layer."""
    learning_rate: float = Field(1e-3, gt=0)


class Network(NextItemNetwork):
    """Each vector is made of the items up to its own; all positions of a row are trained in one pass."""

    slides = False

    def __init__(self, config: Config, n_users: int, n_items: int) -> None:
        super().__init__(config, n_items)
        self.reads = config.length
        self.position = nn.Embedding(config.length, config.dim)
        self.blocks = nn.ModuleList(
            Block(config.dim, config.heads, config.hidden, config.dropout) for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = Dropout(config.dropout)
        initialise(self)

    def forward(self, items: Tensor) -> Tensor:
        x = self.item(items) * self.config.dim**0.5 + self.position(torch.arange(items.shape[1], device=items.device))
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
