"""What the sequential models share: the feed's rows, and a loss over the catalogue.

Shapes: B rows of L items, embeddings of length D, M positions that have a loss. Inside a network a row begins with its
oldest item and padding follows the newest: whoever reads forwards then never meets padding, and needs no mask.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from recsys_spark.models import losses
from recsys_spark.models.negatives import NegativeSampler
from recsys_spark.models.torch_recommender import TorchConfig

FILES = tuple(f"models/{name}.py" for name in ("sequence", "dropout", "losses", "negatives", "torch_recommender"))
"""What a sequential model `SHARES`."""


class SequenceConfig(TorchConfig):
    """What every sequential model's config has."""

    dim: int = Field(64, ge=1)
    """D: length of the item embeddings, and of the vector that is compared with them."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Of the embedded items and of every layer's output."""
    loss: Literal["full_softmax", "sampled_softmax", "gbce", "bce"] = "full_softmax"
    """Over the whole catalogue, or of each position's item against drawn ones."""
    negatives: int = Field(256, ge=1)
    """Items drawn for a batch, which all its positions share; `full_softmax` draws none."""
    negatives_by: Literal["uniform", "popularity"] = "uniform"
    """Draw every item alike, or by its training rows to the power of 0.75, which `sampled_softmax` corrects for."""
    shuffle_ties: bool = True
    """Draw the order of items of one second anew in every batch: nobody knows it, but a model would learn it."""
    calibration: float = Field(0.75, ge=0, le=1)
    """t of `gbce`: 0 is `bce`, 1 makes up for the sampling in full."""
    batch_size: int = Field(128, ge=1)
    """Windows per step and rank."""


def to_front(items: Tensor, length: int) -> Tensor:
    """Move each row's newest items to its front, oldest first, and whatever is 0 behind them: [B, L] to [B, length].

    >>> to_front(torch.tensor([[0, 7, 0, 8, 9], [0, 0, 0, 0, 6]]), 2).tolist()
    [[8, 9], [6, 0]]
    """
    there = items > 0
    place = there.cumsum(dim=1) - 1 - (there.sum(dim=1, keepdim=True) - length).clamp(min=0)
    place = place.masked_fill(~there | (place < 0), length)  # one more column takes what is left out
    return items.new_zeros(len(items), length + 1).scatter_(1, place, items)[:, :length]


def drawn_order(times: Tensor, generator: torch.Generator) -> Tensor:
    """Return where each row's items go by time, those of one second in an order that is drawn: int64 [B, L]."""
    within = torch.rand(times.shape, generator=generator, device=times.device)
    return (times + within.double()).argsort(dim=1)  # in doubles, seconds since 1970 have room for the fraction


def initialise(network: nn.Module) -> None:
    """Draw embeddings and weights of linear layers from a normal distribution of deviation 0.02; biases are 0."""
    for module in network.modules():
        if isinstance(module, nn.Embedding | nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx].detach())
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


class SequenceNetwork(nn.Module, ABC):
    """The items' embeddings on both ends of a network: what goes in, and what the vector that comes out is near."""

    feed = "sequences"
    columns = ("items", "times")
    needs_user_id = False
    needs_history = True

    def __init__(self, config: Any, n_items: int, tokens: int = 0) -> None:
        """Make the embeddings of the items and of so many tokens that are no items."""
        super().__init__()
        self.config = config
        self.n_items = n_items
        self.item = nn.Embedding(n_items + tokens, config.dim, padding_idx=0)
        self.sampler = NegativeSampler(n_items, config.negatives_by)
        kinds = {
            "bce": losses.bce,
            "gbce": losses.gbce(n_items - 1, config.calibration),
            "sampled_softmax": losses.sampled_softmax,
        }
        self.sampled_loss = kinds.get(config.loss)

    def prepare(self, item_counts: Tensor, positives: Tensor | None = None) -> None:
        self.sampler.prepare(item_counts, None)

    def rows(self, batch: dict[str, Tensor], length: int | None, generator: torch.Generator) -> Tensor:
        """Return the newest items of a batch's windows [B, L] as `to_front` makes them; of length L, or `length`."""
        items = batch["items"].long()
        if self.config.shuffle_ties:
            items = items.gather(1, drawn_order(batch["times"], generator))
        L = items.shape[1]
        return to_front(items, L if length is None else min(length, L))

    def catalogue_loss(self, hidden: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
        """Loss of vectors [M, D], each of which should be nearest to its item of [M]."""
        items = self.item_vectors()
        if self.sampled_loss is None:
            return losses.full_softmax(hidden @ items[1:].T, target - 1)
        drawn = self.sampler.shared(self.config.negatives, generator)
        positive = (hidden * F.embedding(target, items)).sum(dim=1)
        negative = hidden @ F.embedding(drawn, items).T
        if self.config.loss == "sampled_softmax" and self.sampler.by != "uniform":  # a log q of all items cancels out
            positive = losses.corrected(positive, self.sampler.log_q[target])
            negative = losses.corrected(negative, self.sampler.log_q[drawn])
        return self.sampled_loss(positive, negative.masked_fill_(target[:, None] == drawn, -math.inf))

    @abstractmethod
    def user_vectors(self, user: Tensor, history: Tensor) -> Tensor:
        """Return what the network makes of histories [B, L]: [B, D]."""

    def item_vectors(self) -> Tensor:
        return self.item.weight[: self.n_items]

    def score(self, user: Tensor, history: Tensor) -> Tensor:
        return self.user_vectors(user, history) @ self.item_vectors().T


class NextItemNetwork(SequenceNetwork):
    """Reads forwards; the vector after each item is compared with the item that came next.

    Attributes:
        reads: how many of the newest items a vector depends on; None = all.
        slides: whether longer rows than that are fine, of which each vector reads its part.
    """

    reads: int | None = None
    slides = True

    @abstractmethod
    def forward(self, items: Tensor) -> Tensor:
        """Return the vector after each item of rows as `to_front` makes them, [B, L, D] of [B, L]."""

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Mean over all items of the batch but each row's first."""
        rows = self.rows(batch, None if self.slides or self.reads is None else self.reads + 1, generator)
        target = rows[:, 1:]
        there = target > 0
        return self.catalogue_loss(self(rows[:, :-1])[there], target[there], generator)

    def user_vectors(self, user: Tensor, history: Tensor) -> Tensor:
        rows = to_front(history, min(self.reads or history.shape[1], history.shape[1]))
        newest = ((rows > 0).sum(dim=1) - 1).clamp(min=0)
        return self(rows)[torch.arange(len(rows), device=rows.device), newest]
