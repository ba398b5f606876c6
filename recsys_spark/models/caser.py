"""Caser: convolutions over the newest items (Tang & Wang 2018, "Personalized top-N sequential recommendation via
convolutional sequence embedding").

The paper joins an embedding of the user to what the convolutions find; it is left out here, so that new users get lists
from their histories alone. The convolutions run over a row once, and every window takes its part of what they found.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from recsys_spark.models.dropout import Dropout
from recsys_spark.models.sequence import FILES, NextItemNetwork, SequenceConfig, initialise

SHARES = FILES


class Config(SequenceConfig):
    """Sizes of Caser."""

    window: int = Field(5, ge=1)
    """Newest items that are read."""
    horizontal: int = Field(16, ge=1)
    """Filters over whole embeddings, of each height from 1 item to `window`."""
    vertical: int = Field(8, ge=1)
    """Filters over each dimension of all items of the window."""
    learning_rate: float = Field(1e-3, gt=0)


class Network(NextItemNetwork):
    """Per window: the largest answer of each horizontal filter, the weighted sums of the vertical ones, and a layer."""

    def __init__(self, config: Config, n_users: int, n_items: int) -> None:
        super().__init__(config, n_items)
        W, D = config.window, config.dim
        self.reads = W
        self.horizontal = nn.ModuleList(nn.Conv1d(D, config.horizontal, height) for height in range(1, W + 1))
        self.vertical = nn.Linear(W, config.vertical, bias=False)
        self.out = nn.Linear(W * config.horizontal + D * config.vertical, D)
        self.dropout = Dropout(config.dropout)
        initialise(self)

    def forward(self, items: Tensor) -> Tensor:
        W = self.config.window
        x = F.pad(self.item(items).transpose(1, 2), (W - 1, 0))  # [B, D, W - 1 + L]: before the oldest there is nothing
        found = [
            F.max_pool1d(torch.relu(filters(x)), W - height + 1, stride=1)  # [B, horizontal, L]
            for height, filters in enumerate(self.horizontal, start=1)
        ]
        sums = self.vertical(x.unfold(2, W, 1))  # [B, D, L, vertical]
        both = torch.cat([*found, sums.permute(0, 1, 3, 2).flatten(1, 2)], dim=1).transpose(1, 2)
        return self.out(self.dropout(both))
