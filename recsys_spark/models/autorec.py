"""AutoRec: an autoencoder of whole histories that is trained on squared errors (Sedhain et al. 2015).

Sedhain, Menon, Sanner & Xie 2015, "AutoRec: autoencoders meet collaborative filtering"; this is U-AutoRec, a history
per user. The paper reconstructs ratings and takes the error of the rated items alone. Where interactions say no more
than that they happened, all of those are 1, and a constant would do: so the other items count as 0, with less weight
if wanted, as in Hu, Koren & Volinsky 2008, and some of a history is hidden, as in Wu et al. 2016, "Collaborative
denoising auto-encoders for top-N recommender systems".
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys_spark.models.autoencoder import FILES, HistoryNetwork, cells, flat, hide
from recsys_spark.models.torch_recommender import TorchConfig

SHARES = FILES


class Config(TorchConfig):
    """Sizes and schedule of AutoRec."""

    dim: int = Field(128, ge=1)
    """D: width of the one layer between a history and its reconstruction."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Share of a history's items that training hides from the encoder."""
    unobserved: float = Field(1.0, gt=0, le=1)
    """w: weight of the error of an item that is not in the history."""
    batch_size: int = Field(128, ge=1)
    """Rows of the feed per step and rank; a user of w windows is taken from about one of w rows."""


class Network(HistoryNetwork):
    """h(r) = W sigmoid(V r + a) + b of a history r in {0, 1}^n_items."""

    def __init__(self, config: Config, n_users: int, n_items: int) -> None:
        super().__init__(n_users, n_items)
        self.config = config
        self.item = nn.EmbeddingBag(n_items, config.dim, mode="sum", include_last_offset=True)
        self.item_bias = nn.Parameter(torch.zeros(config.dim))
        self.decoder = nn.Linear(config.dim, n_items)
        nn.init.xavier_normal_(self.item.weight)
        nn.init.xavier_normal_(self.decoder.weight)
        nn.init.zeros_(self.decoder.bias)

    def reconstruct(self, items: Tensor, offsets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return h [B, n_items] of histories, each item times its weight [H]."""
        ones = torch.ones_like(items, dtype=self.item_bias.dtype) if weights is None else weights
        return self.decoder(torch.sigmoid(self.item(items, offsets, ones) + self.item_bias))

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Σ (1 - h_i)² over a history's items + w Σ h_j² over the others; the mean over the users."""
        user = self.each_user_once(batch["user_id"].long(), batch["length"].long(), generator)
        items, offsets = self.histories(user)
        output = self.reconstruct(items, offsets, hide(items, self.config.dropout, generator))
        had = output.flatten()[cells(items, offsets, self.n_items)]
        w = self.config.unobserved
        # over all items as if none were had, and then what is different for those that were
        return (w * output.square().sum() + ((1 - had).square() - w * had.square()).sum()) / len(user)

    def score(self, user: Tensor, history: Tensor) -> Tensor:
        return self.reconstruct(*flat(history))
