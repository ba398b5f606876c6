"""BERT4Rec: fill in masked items from both sides (Sun et al. 2019, "BERT4Rec: sequential recommendation with
bidirectional encoder representations from transformer").
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from recsys_spark.models.attention import FILES, AttentionConfig, AttentionStack
from recsys_spark.models.sequence import SequenceNetwork, initialise, to_front

SHARES = FILES


class Config(AttentionConfig):
    """Sizes of BERT4Rec, whose `length` counts masks as items, and what it is asked to fill in."""

    heads: int = Field(2, ge=1)
    hidden: int = Field(256, ge=1)
    masked: float = Field(0.2, gt=0, lt=1)
    """Share of a row's items that are masked and have to be filled in."""
    newest_only: float = Field(0.1, ge=0, le=1)
    """Share of the rows in which the newest item is masked alone, as it is when a list is made."""


class Network(SequenceNetwork):
    """Every position looks at every other; the vector at a mask is compared with the item that it hides."""

    def __init__(self, config: Config, n_users: int, n_items: int) -> None:
        super().__init__(config, n_items, tokens=1)
        self.stack = AttentionStack(config)
        initialise(self)

    def forward(self, items: Tensor) -> Tensor:
        """Return the vectors at the items and masks of rows as `to_front` makes them, [B, L, D] of [B, L]."""
        there = items > 0
        # the newest is at position 0, wherever the row ends
        place = (there.sum(dim=1, keepdim=True) - there.cumsum(dim=1)) * there
        return self.stack(self.item(items), place, there)

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
        rows = self.rows(batch, self.config.length, generator)
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
