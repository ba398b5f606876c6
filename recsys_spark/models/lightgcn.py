"""LightGCN: embeddings spread over the graph of who had what, and nothing else (He et al. 2020).

He, Deng, Wang, Li, Zhang & Wang 2020, "LightGCN: simplifying and powering graph convolution network for
recommendation". The graph is made of training rows and is not saved. What is saved beside the embeddings is what the
graph made of them when the network last turned to evaluation: its scores are read from there.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys_spark.models import losses
from recsys_spark.models.negatives import NegativeSampler, SamplingConfig, draw_hardest


class Config(SamplingConfig):
    """Sizes and sampling of LightGCN."""

    dim: int = Field(64, ge=1)
    """D: length of the embeddings."""
    layers: int = Field(3, ge=0)
    """K: how many steps the embeddings are spread over the graph."""
    regularization: float = Field(1e-4, ge=0)
    """Weight of the L2 penalty on the own embeddings of a batch's users and items."""


class Network(nn.Module):
    """Logit of (user u, item i) = e_u . e_i, with e = 1/(K + 1) Σ_k (D^-½ A D^-½)^k e⁰ for k = 0..K."""

    columns = ("user_id", "item_id")
    needs_user_id = True
    needs_history = False

    graph: Tensor

    def __init__(self, config: Config, n_users: int, n_items: int) -> None:
        super().__init__()
        self.config, self.n_users, self.n_items = config, n_users, n_items
        self.user, self.item = nn.Embedding(n_users, config.dim), nn.Embedding(n_items, config.dim)
        # tables as well, so that who is erased is erased from them; the optimizer has nothing to do with them
        self.user_spread, self.item_spread = (
            nn.Embedding.from_pretrained(torch.zeros(n, config.dim), freeze=True) for n in (n_users, n_items)
        )
        self.sampler = NegativeSampler(n_items, config.draw)
        self.register_buffer("graph", torch.empty(0, 0), persistent=False)
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=0.1)

    def prepare(self, item_counts: Tensor, positives: Tensor | None = None) -> None:
        self.sampler.prepare(item_counts, positives if self.config.avoid_positives else None)
        if positives is not None:
            self.graph = normalized_graph(positives, self.n_users, self.n_items)

    def spread(self) -> Tensor:
        """Return all users' and items' vectors, made by the graph of the embeddings, [n_users + n_items, D]."""
        return _Spread.apply(torch.cat([self.user.weight, self.item.weight]), self.graph, self.config.layers)

    def train(self, mode: bool = True) -> Network:
        """Turn to training or, with the vectors made anew if there is a graph to make them, to evaluation."""
        super().train(mode)
        if not mode and self.graph.numel():
            with torch.no_grad():
                user, item = self.spread().split([self.n_users, self.n_items])
                self.user_spread.weight.copy_(user)
                self.item_spread.weight.copy_(item)
        return self

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        user, positive = batch["user_id"].long(), batch["item_id"].long()  # [B]
        vectors = self.spread()
        of_user = vectors[user]
        negative = draw_hardest(
            self.sampler, user, self.config.negatives, self.config.candidates,
            lambda items: losses.products(of_user, vectors[self.n_users + items]), generator,
        )  # fmt: skip
        items = torch.cat([positive[:, None], negative], dim=1)  # [B, 1 + negatives]
        logits = losses.products(of_user, vectors[self.n_users + items])
        own = losses.l2(self.user(user), self.item(items))
        return losses.bpr(logits[:, 0], logits[:, 1:]) + self.config.regularization * own

    def user_vectors(self, user: Tensor, history: Tensor | None = None) -> Tensor:
        """Vectors [B, D] of ids [B], as they were when the network last turned to evaluation."""
        return self.user_spread(user)

    def item_vectors(self) -> Tensor:
        """Vectors [n_items, D], as they were when the network last turned to evaluation."""
        return self.item_spread.weight

    def score(self, user: Tensor, history: Tensor) -> Tensor:
        return self.user_vectors(user) @ self.item_vectors().T


def normalized_graph(positives: Tensor, n_users: int, n_items: int) -> Tensor:
    """Return D^-½ A D^-½ as sparse CSR, [n_users + n_items] squared: users first, 1/√(degree degree) at each pair.

    Args:
        positives: user_id * n_items + item_id of every training pair, sorted, int64 [rows].
    """
    user, item = positives // n_items, n_users + positives % n_items
    n = n_users + n_items
    degree = torch.bincount(torch.cat([user, item]), minlength=n)
    by_item = torch.argsort(item, stable=True)  # within an item the users stay sorted
    rows, columns = torch.cat([user, item[by_item]]), torch.cat([item, user[by_item]])
    values = (degree[rows] * degree[columns]).double().rsqrt().float()
    starts = torch.cat([degree.new_zeros(1), degree.cumsum(0)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that support of CSR is in beta state
        return torch.sparse_csr_tensor(starts, columns, values, (n, n), check_invariants=True)


class _Spread(torch.autograd.Function):
    """1/(K + 1) Σ_k G^k x. G is symmetric, so the gradient is spread the same way, and nothing is kept for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, graph: Tensor, layers: int) -> Tensor:
        ctx.graph, ctx.layers = graph, layers
        return _mean_of_powers(x, graph, layers)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _mean_of_powers(gradients[0].contiguous(), ctx.graph, ctx.layers), None, None


def _mean_of_powers(x: Tensor, graph: Tensor, layers: int) -> Tensor:
    total = x
    for _ in range(layers):  # Horner's rule: x + G (x + G (x + ...))
        total = torch.addmm(x, graph, total)
    return total / (layers + 1)
