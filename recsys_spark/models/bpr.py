"""BPR: a factorisation that ranks what a user had above what they had not (Rendle et al. 2009).

Rendle, Freudenthaler, Gantner & Schmidt-Thieme 2009, "BPR: Bayesian personalized ranking from implicit feedback".
An item's bias is one more coordinate of its vector, against a 1 in the user's, so that scores stay dot products.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from recsys_spark.models import losses
from recsys_spark.models.negatives import NegativeSampler, SamplingConfig, draw_hardest


class Config(SamplingConfig):
    """Sizes and sampling of BPR."""

    dim: int = Field(64, ge=1)
    """D: length of the embeddings, without the bias."""
    bias: bool = True
    """Whether an item has a bias of its own."""
    regularization: float = Field(0.0, ge=0)
    """Weight of the L2 penalty on the embeddings of a batch's users and items."""


class Network(nn.Module):
    """Logit of (user u, item i) = p_u . q_i + b_i."""

    columns = ("user_id", "item_id")
    needs_user_id = True
    needs_history = False

    def __init__(self, config: Config, n_users: int, n_items: int) -> None:
        super().__init__()
        self.config = config
        self.user, self.item = nn.Embedding(n_users, config.dim), nn.Embedding(n_items, config.dim)
        self.item_bias = nn.Embedding(n_items, 1) if config.bias else None
        self.sampler = NegativeSampler(n_items, config.draw)
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=0.05)
        if self.item_bias is not None:
            nn.init.zeros_(self.item_bias.weight)

    def prepare(self, item_counts: Tensor, positives: Tensor | None = None) -> None:
        self.sampler.prepare(item_counts, positives if self.config.avoid_positives else None)

    def user_vectors(self, user: Tensor, history: Tensor | None = None) -> Tensor:
        """[p_u ; 1] of ids [B]: [B, D + 1], or [B, D] without biases."""
        rows = self.user(user)
        return rows if self.item_bias is None else F.pad(rows, (0, 1), value=1.0)

    def item_vectors(self, item: Tensor | None = None) -> Tensor:
        """[q_i ; b_i] of ids [...], or of the whole catalogue: [..., D + 1], or [..., D] without biases."""
        rows = self.item.weight if item is None else self.item(item)
        if self.item_bias is None:
            return rows
        return torch.cat([rows, self.item_bias.weight if item is None else self.item_bias(item)], dim=-1)

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        user, positive = batch["user_id"].long(), batch["item_id"].long()  # [B]
        vectors = self.user_vectors(user)
        negative = draw_hardest(
            self.sampler, user, self.config.negatives, self.config.candidates,
            lambda items: losses.products(vectors, self.item_vectors(items)), generator,
        )  # fmt: skip
        items = self.item_vectors(torch.cat([positive[:, None], negative], dim=1))  # [B, 1 + negatives, D + 1]
        logits = losses.products(vectors, items)
        loss = losses.bpr(logits[:, 0], logits[:, 1:])
        if self.config.regularization:
            loss = loss + self.config.regularization * losses.l2(self.user(user), items)
        return loss

    def score(self, user: Tensor, history: Tensor) -> Tensor:
        return self.user_vectors(user) @ self.item_vectors().T
