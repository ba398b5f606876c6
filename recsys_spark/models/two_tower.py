"""Two towers for retrieval, trained with in-batch negatives.

Yi et al. 2019, "Sampling-bias-corrected neural modeling for large corpus item recommendations": softmax
over the batch's items, each logit less the logarithm of how likely the item is to be in a batch, so that
popular items are not punished for being everyone's negatives.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from recsys_spark.models.dropout import Dropout
from recsys_spark.models.losses import in_batch_softmax
from recsys_spark.models.torch_recommender import RowConfig


class Config(RowConfig):
    """Sizes of the towers."""

    dim: int = Field(64, ge=1)
    """D: length of embeddings and of the vectors that are compared."""
    hidden: int = Field(128, ge=1)
    """Width of each tower's hidden layer."""
    dropout: float = Field(0.1, ge=0, lt=1)
    temperature: float = Field(0.2, gt=0)
    """Divides the cosine: smaller means sharper."""
    batch_size: int = Field(256, ge=2)
    """Rows per step and rank; as many items are each other's negatives."""
    learning_rate: float = Field(2e-3, gt=0)


class Network(nn.Module):
    """User tower: MLP of [user embedding ; mean of the history's items]; item tower: MLP of the item's."""

    columns = ("user_id", "item_id", "history")
    needs_user_id = False
    needs_history = True

    def __init__(self, config: Config, n_users: int, n_items: int) -> None:
        super().__init__()
        D, H = config.dim, config.hidden
        self.temperature = config.temperature
        self.user, self.item = (
            nn.Embedding(n, D, padding_idx=0, sparse=config.sparse_gradients) for n in (n_users, n_items)
        )
        self.user_tower = nn.Sequential(nn.Linear(2 * D, H), nn.ReLU(), Dropout(config.dropout), nn.Linear(H, D))
        self.item_tower = nn.Sequential(nn.Linear(D, H), nn.ReLU(), Dropout(config.dropout), nn.Linear(H, D))
        self.register_buffer("log_q", torch.zeros(n_items), persistent=False)
        for table in (self.user, self.item):
            nn.init.normal_(table.weight[1:], std=0.1)

    def prepare(self, item_counts: Tensor, positives: Tensor | None = None) -> None:
        self.log_q = torch.log(item_counts.clamp(min=1) / item_counts.sum())

    def user_vectors(self, user: Tensor, history: Tensor) -> Tensor:
        """Unit vectors divided by the temperature, [B, D], of ids [B] and histories [B, L]."""
        length = (history > 0).sum(dim=1, keepdim=True).clamp(min=1)
        taste = self.item(history).sum(dim=1) / length  # padding's embedding is 0
        return F.normalize(self.user_tower(torch.cat([self.user(user), taste], dim=1)), dim=1) / self.temperature

    def item_vectors(self, item: Tensor | None = None) -> Tensor:
        """Unit vectors [B, D] of items [B], or of the whole catalogue [n_items, D]."""
        rows = self.item.weight if item is None else self.item(item)
        return F.normalize(self.item_tower(rows), dim=1)

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        user, item, history = batch["user_id"].long(), batch["item_id"].long(), batch["history"].long()
        # the id embedding is hidden from half the rows, so that a new user's history has to carry the vector
        keep = torch.rand(len(user), generator=generator, device=user.device) < 0.5
        logits = self.user_vectors(user * keep, history) @ self.item_vectors(item).T  # [B, B]
        return in_batch_softmax(logits, item, self.log_q[item])

    def score(self, user: Tensor, history: Tensor) -> Tensor:
        return self.user_vectors(user, history) @ self.item_vectors().T
