"""Negatives drawn where the batch is, of the trained items: uniformly, by popularity, or the model's own favourites.

On a dense log, a uniform draw hits the user's own items so often that the model unlearns them; what redrawing
those did for NeuMF on MovieLens-100k is in docs/quality.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys_spark.models.torch_recommender import TorchConfig

_TRIES = 4  # a user with half the catalogue keeps 1 in 16 false negatives after as many redraws
_POWER = 0.75
_CELLS = 1 << 26
"""Most pairs of a user and an item for a table of all, a byte each; where there are more, pairs are searched."""


class SamplingConfig(TorchConfig):
    """How a model draws what each of its positives is compared with."""

    negatives: int = Field(1, ge=1)
    """Items that each positive is compared with."""
    candidates: int | None = Field(None, ge=1)
    """Items drawn per positive, of which the `negatives` that the model likes best are kept; null = all are."""
    draw: Literal["uniform", "popularity"] = "uniform"
    """Whether every trained item is drawn alike, or popular ones more often."""
    avoid_positives: bool = True
    """Redraw negatives that the user has had; costs 64 MB of device memory or less, or 8 bytes per training row."""


class NegativeSampler(nn.Module):
    """Draws trained items, on the device of its buffers.

    `log_q` [n_items] is the logarithm of how likely a draw is to be each item, for `losses.corrected`; 0 for an item
    that is never drawn.
    """

    items: Tensor
    positives: Tensor
    table: Tensor
    cumulative: Tensor
    log_q: Tensor

    def __init__(self, n_items: int, by: Literal["uniform", "popularity"] = "uniform") -> None:
        """Build a sampler that knows nothing yet.

        Args:
            by: every item alike, or in proportion to its training rows to the power of 0.75 (Mikolov et al. 2013,
                "Distributed representations of words and phrases and their compositionality").
        """
        super().__init__()
        self.n_items = n_items
        self.by = by
        self.register_buffer("items", torch.arange(1, n_items), persistent=False)
        self.register_buffer("positives", torch.empty(0, dtype=torch.long), persistent=False)
        self.register_buffer("table", torch.empty(0, dtype=torch.bool), persistent=False)
        self.register_buffer("cumulative", torch.empty(0, dtype=torch.double), persistent=False)
        self.register_buffer("log_q", torch.zeros(n_items), persistent=False)

    def prepare(self, item_counts: Tensor, positives: Tensor | None) -> None:
        """Take which items occur [n_items] and, if they are to be avoided, all training pairs.

        Args:
            positives: user_id * n_items + item_id of every training pair, sorted, int64 [rows].
        """
        self.items = item_counts.nonzero().squeeze(1)
        weights = torch.ones(len(self.items), dtype=torch.double)
        if self.by == "popularity":
            weights = item_counts[self.items].double() ** _POWER
            self.cumulative = torch.cumsum(weights, 0) / weights.sum()
        self.log_q = torch.zeros(self.n_items)
        self.log_q[self.items] = torch.log(weights / weights.sum()).to(self.log_q.dtype)
        if positives is not None:
            pairs = int(positives.max()) + 1 if len(positives) else 0
            if pairs <= _CELLS:
                self.table = torch.zeros(pairs + 1, dtype=torch.bool)  # the last one is for all pairs beyond
                self.table[positives] = True
            else:
                self.positives = positives

    def forward(self, user: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Draw n items for each user of [B]: [B, n]."""
        drawn = self._draw((len(user), n), generator)
        if not len(self.table) and not len(self.positives):
            return drawn
        flat, owner = drawn.view(-1), user.repeat_interleave(n)
        at = torch.arange(len(flat), device=flat.device)
        for _ in range(_TRIES):
            at = at[self._had(owner[at], flat[at])]  # a few in a hundred: only those are drawn and looked up again
            if not len(at):
                break
            flat[at] = self._draw(at.shape, generator)
        return drawn

    def _had(self, user: Tensor, item: Tensor) -> Tensor:
        """Return which pairs are training rows, bool [E] of [E] and [E]."""
        key = user * self.n_items + item
        if len(self.table):
            return self.table[key.clamp(max=len(self.table) - 1)]
        at = torch.searchsorted(self.positives, key).clamp_(max=len(self.positives) - 1)
        return self.positives[at] == key

    def shared(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n items that a whole batch has as its negatives: [n]."""
        return self._draw((n,), generator)

    def _draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        if self.by == "popularity":
            at = torch.rand(shape, generator=generator, device=self.items.device, dtype=torch.double)
            return self.items[torch.searchsorted(self.cumulative, at).clamp(max=len(self.items) - 1)]
        return self.items[torch.randint(len(self.items), shape, generator=generator, device=self.items.device)]


def hardest(logits: Tensor, n: int) -> Tensor:
    """Return which n of each row's drawn negatives [B, m] the model likes best, [B, n]: dynamic negative sampling.

    Zhang, Chen, Wang & Yu 2013, "Optimizing top-N collaborative filtering via dynamic negative item sampling".
    """
    return logits.topk(n, dim=1).indices


def draw_hardest(
    sampler: NegativeSampler,
    user: Tensor,
    n: int,
    candidates: int | None,
    like: Callable[[Tensor], Tensor],
    generator: torch.Generator,
) -> Tensor:
    """Draw negatives of users [B] and keep the `hardest`, [B, n].

    Args:
        candidates: how many are drawn; None, or no more than n: those that are kept.
        like: takes items [B, m] and returns the model's logits [B, m].
    """
    drawn = sampler(user, max(n, candidates or 0), generator)
    if drawn.shape[1] == n:
        return drawn
    with torch.no_grad():
        return drawn.gather(1, hardest(like(drawn), n))
