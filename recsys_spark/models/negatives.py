"""Negatives drawn where the batch is: uniform over the trained items, avoiding what the user already has.

On a dense log, a uniform draw hits the user's own items so often that the model unlearns them; what redrawing
those did for NeuMF on MovieLens-100k is in docs/quality.md.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_TRIES = 4  # a user with half the catalogue keeps 1 in 16 false negatives after as many redraws


class NegativeSampler(nn.Module):
    """Uniform sampler over the trained items, on the device of its buffers."""

    items: Tensor
    positives: Tensor

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.n_items = n_items
        self.register_buffer("items", torch.arange(1, n_items), persistent=False)
        self.register_buffer("positives", torch.empty(0, dtype=torch.long), persistent=False)

    def prepare(self, item_counts: Tensor, positives: Tensor | None) -> None:
        """Take which items occur [n_items] and, if they are to be avoided, all training pairs.

        Args:
            positives: user_id * n_items + item_id of every training pair, sorted, int64 [rows].
        """
        self.items = item_counts.nonzero().squeeze(1)
        if positives is not None:
            self.positives = positives

    def forward(self, user: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Draw n items for each user of [B]: [B, n]."""
        drawn = self._draw((len(user), n), generator)
        for _ in range(_TRIES if len(self.positives) else 0):
            key = user[:, None] * self.n_items + drawn
            at = torch.searchsorted(self.positives, key).clamp(max=len(self.positives) - 1)
            drawn = torch.where(self.positives[at] == key, self._draw(drawn.shape, generator), drawn)
        return drawn

    def _draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return self.items[torch.randint(len(self.items), shape, generator=generator, device=self.items.device)]
