"""NeuMF: a factorisation and a perceptron side by side (He et al. 2017, "Neural collaborative filtering").

The perceptron's first layer is linear in [user; item], so over the whole catalogue it is computed once per
user and once per item and added, instead of once per pair: the same numbers for 1/(2 D) of the work.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys_spark.models import losses
from recsys_spark.models.dropout import Dropout
from recsys_spark.models.negatives import NegativeSampler
from recsys_spark.models.torch_recommender import RowConfig

_LOSSES = {"softmax": losses.sampled_softmax, "bce": losses.bce}
_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Activations in a chunk of a full-catalogue pass: 4 MB stay in the cache, 64 MB took three times as long."""


class Config(RowConfig):
    """Sizes and sampling of NeuMF."""

    dim: int = Field(64, ge=1)
    """D: length of the embeddings, the same in both parts."""
    hidden: list[int] = Field([64, 32], min_length=1)
    """Widths of the perceptron's layers."""
    dropout: float = Field(0.1, ge=0, lt=1)
    negatives: int = Field(4, ge=1)
    """Items drawn per positive, uniformly over the trained ones."""
    avoid_positives: bool = True
    """Redraw negatives that the user has had; costs 64 MB of device memory or less, or 8 bytes per training row."""
    loss: Literal["softmax", "bce"] = "softmax"
    """Of a positive against its negatives: one softmax, or one sigmoid each as in the paper."""
    batch_size: int = Field(512, ge=1)
    learning_rate: float = Field(2e-3, gt=0)


class Network(nn.Module):
    """Logit of (user u, item i) = w . [ gmf_u * gmf_i ; mlp([u; i]) ]."""

    columns = ("user_id", "item_id")
    needs_user_id = True
    needs_history = False

    def __init__(self, config: Config, n_users: int, n_items: int) -> None:
        super().__init__()
        D, (first, *rest) = config.dim, config.hidden
        self.config = config
        rows = config.sparse_gradients
        self.user_gmf, self.item_gmf = (nn.Embedding(n, D, sparse=rows) for n in (n_users, n_items))
        self.user_mlp, self.item_mlp = (nn.Embedding(n, D, sparse=rows) for n in (n_users, n_items))
        self.user_in = nn.Linear(D, first)
        self.item_in = nn.Linear(D, first, bias=False)  # the two halves of one layer on [u; i]
        widths = [first, *rest]
        layers: list[nn.Module] = [nn.ReLU(), Dropout(config.dropout)]
        for wide, narrow in zip(widths, rest):  # noqa: B905 - the last width has no layer after it
            layers += [nn.Linear(wide, narrow), nn.ReLU(), Dropout(config.dropout)]
        self.tower = nn.Sequential(*layers)
        self.out_gmf = nn.Linear(D, 1, bias=False)
        self.out_mlp = nn.Linear(widths[-1], 1)
        self.sampler = NegativeSampler(n_items)
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.01)

    def prepare(self, item_counts: Tensor, positives: Tensor | None = None) -> None:
        self.sampler.prepare(item_counts, positives if self.config.avoid_positives else None)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """Logits of pairs: user and item broadcast against each other, and so does the result."""
        gmf = self.out_gmf(self.user_gmf(user) * self.item_gmf(item))
        mlp = self.out_mlp(self.tower(self.user_in(self.user_mlp(user)) + self.item_in(self.item_mlp(item))))
        return (gmf + mlp).squeeze(-1)

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        user, positive = batch["user_id"].long(), batch["item_id"].long()  # [B]
        negative = self.sampler(user, self.config.negatives, generator)
        logits = self(user[:, None], torch.cat([positive[:, None], negative], dim=1))  # [B, 1 + negatives]
        return _LOSSES[self.config.loss](logits[:, 0], logits[:, 1:])

    def score(self, user: Tensor, history: Tensor) -> Tensor:
        n_items, width = self.item_in(self.item_mlp.weight).shape
        item = self.item_in(self.item_mlp.weight)  # [N, H]
        at_once = max(1, _AT_ONCE[user.device.type] // (n_items * width))
        return torch.cat([self._score(part, item) for part in user.split(at_once)])

    def _score(self, user: Tensor, item: Tensor) -> Tensor:
        gmf = (self.user_gmf(user) * self.out_gmf.weight) @ self.item_gmf.weight.T  # [B, N]
        mlp = self.out_mlp(self.tower(self.user_in(self.user_mlp(user))[:, None] + item))  # [B, N, 1]
        return gmf + mlp.squeeze(-1)
