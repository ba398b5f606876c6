"""What the autoencoders share: a user is their whole training history, and a batch of the feed picks users.

Histories lie one behind the other, [H], and that of row b is `items[offsets[b]:offsets[b + 1]]`. The first layer adds
up the rows of a history's items: no matrix [B, n_items] of histories is made.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FILES = ("models/autoencoder.py", "models/torch_recommender.py")
"""What an autoencoder `SHARES`."""


class HistoryNetwork(nn.Module):
    """The histories that training rows make; `encode` and `decode` are a model's own."""

    feed = "sequences"
    columns = ("user_id", "length")
    needs_user_id = False
    needs_history = True
    whole_history = True

    items: Tensor
    offsets: Tensor

    def __init__(self, n_users: int, n_items: int) -> None:
        super().__init__()
        self.n_users, self.n_items = n_users, n_items
        # who had what, from the training rows: no one's rows are saved with the model
        self.register_buffer("items", torch.empty(0, dtype=torch.long), persistent=False)
        self.register_buffer("offsets", torch.zeros(n_users + 1, dtype=torch.long), persistent=False)

    def prepare(self, item_counts: Tensor, positives: Tensor | None = None) -> None:
        if positives is not None:
            self.items = positives % self.n_items
            self.offsets = torch.searchsorted(positives, torch.arange(self.n_users + 1) * self.n_items)

    def each_user_once(self, user: Tensor, length: Tensor, generator: torch.Generator) -> Tensor:
        """Keep each row with the chance length / the user's items: a user has a row per window, and counts once."""
        share = length / (self.offsets[user + 1] - self.offsets[user])
        kept = user[torch.rand(len(user), generator=generator, device=user.device) < share]
        return kept if len(kept) else user[:1]

    def histories(self, user: Tensor) -> tuple[Tensor, Tensor]:
        """Return the training items of users [B], one behind the other, and where each user's begin, [B + 1]."""
        start, lengths = self.offsets[user], self.offsets[user + 1] - self.offsets[user]
        offsets = F.pad(lengths.cumsum(0), (1, 0))
        at = torch.arange(int(offsets[-1]), device=user.device) + (start - offsets[:-1]).repeat_interleave(lengths)
        return self.items[at], offsets


def flat(history: Tensor) -> tuple[Tensor, Tensor]:
    """Take padded histories [B, L] apart: their items one behind the other, and where each begins, [B + 1].

    >>> flat(torch.tensor([[0, 7, 8], [0, 0, 6]]))
    (tensor([7, 8, 6]), tensor([0, 2, 3]))
    """
    there = history > 0
    return history[there], F.pad(there.sum(dim=1).cumsum(0), (1, 0))


def cells(items: Tensor, offsets: Tensor, width: int) -> Tensor:
    """Where histories' items are in a flattened matrix with a row for each history and `width` columns, [H]."""
    lengths = offsets.diff()
    rows = torch.arange(len(lengths), device=items.device).repeat_interleave(lengths)
    return rows * width + items


def hide(items: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return what to multiply each item by, [H]: 0 for about a `share` of them, and 1 / (1 - share) for the others."""
    return (torch.rand(len(items), generator=generator, device=items.device) >= share) / (1 - share)
