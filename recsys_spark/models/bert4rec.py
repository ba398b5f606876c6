"""BERT4Rec: fill in masked items from both sides (Sun et al. 2019, "BERT4Rec: sequential recommendation with
bidirectional encoder representations from transformer").
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys_spark.models.dropout import Dropout
from recsys_spark.models.sequence import FILES, Block, SequenceConfig, SequenceNetwork, initialise, to_front

SHARES = FILES


class Config(SequenceConfig):
    """Sizes of BERT4Rec, and what it is asked to fill in."""

    length: int = Field(50, ge=2)
    """Items and masks that are read; positions beyond `dataset.history_length` are never trained."""
    blocks: int = Field(2, ge=1)
    """Attention blocks, one on the other."""
    heads: int = Field(2, ge=1)
    """Parts that attention is computed in; `dim` is a multiple of them."""
    hidden: int = Field(256, ge=1)
    """Width of each block's feed-forward layer."""
    masked: float = Field(0.2, gt=0, lt=1)
    """Share of a row's items that are masked and have to be filled in."""
    newest_only: float = Field(0.1, ge=0, le=1)
    """Share of the rows in which the newest item is masked alone, as it is when a list is made."""
    learning_rate: float = Field(1e-3, gt=0)


class Network(SequenceNetwork):
    """Every position looks at every other; the vector at a mask is compared with the item that it hides."""

    def __init__(self, config: Config, n_users: int, n_items: int) -> None:
        super().__init__(config, n_items, tokens=1)
        self.position = nn.Embedding(config.length, config.dim)
        self.blocks = nn.ModuleList(
            Block(config.dim, config.heads, config.hidden, config.dropout) for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = Dropout(config.dropout)
        initialise(self)

    def forward(self, items: Tensor) -> Tensor:
        """Return the vectors at the items and masks of rows as `to_front` makes them, [B, L, D] of [B, L]."""
        there = items > 0
        # the newest is at position 0, wherever the row ends
        place = (there.sum(dim=1, keepdim=True) - there.cumsum(dim=1)) * there
        x = self.dropout(self.item(items) * self.config.dim**0.5 + self.position(place))
        for block in self.blocks:
            x = block(x, there)
        return self.norm(x)

    def mask(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Choose the items to hide, bool [B, L], of rows as `to_front` makes them; at least one of each."""
        there = rows > 0
        newest = torch.arange(rows.shape[1], device=rows.device) == there.sum(dim=1, keepdim=True) - 1
        drawn = torch.rand(rows.shape, generator=generator, device=rows.device)
        hidden = there & (drawn < self.config.masked)
        alone = torch.rand(len(rows), 1, generator=generator, device=rows.device) < self.config.newest_only
        return torch.where(alone | ~hidden.any(dim=1, keepdim=True), newest, hidden)

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Mean over the items that are hidden."""
        items = batch["items"].long()
        rows = to_front(items, min(self.config.length, items.shape[1]))
        hidden = self.mask(rows, generator)
        vectors = self(rows.masked_fill(hidden, self.n_items))
        return self.catalogue_loss(vectors[hidden], rows[hidden], generator)

    def user_vectors(self, user: Tensor, history: Tensor) -> Tensor:
        rows = to_front(history, min(self.config.length - 1, history.shape[1]))
        rows = torch.cat([rows, rows.new_zeros(len(rows), 1)], dim=1)
        after = (rows > 0).sum(dim=1)
        row = torch.arange(len(rows), device=rows.device)
        rows[row, after] = self.n_items
        return self(rows)[row, after]
