"""Any torch network behind contract 3: who it knows, what it was trained on, and how it is saved.

A network is a `torch.nn.Module` built as `Network(config, n_users, n_items)` with

- `columns`: the columns that it trains on, of the feed that `feed` names (`pairs`, where it names none),
- `prepare(item_counts, positives)`: take how often each item occurs in training, [n_items], and all training
  pairs as sorted user_id * n_items + item_id, [rows],
- `loss(batch, generator) -> scalar`: its training loss, negatives drawn on the batch's device,
- `score(user_id [B], history [B, L]) -> [B, n_items]`, and for a dot-product model also
  `user_vectors(user_id, history) -> [B, D]` and `item_vectors() -> [n_items, D]`,
- `needs_user_id`, `needs_history`: what a user has to have to be scored,
- `whole_history`, if it reads histories however long, and not the newest L that the feed has of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from recsys_spark.config import Section
from recsys_spark.models import module_of
from recsys_spark.models.base import NO_OPINION, Floats, UserBlock, read_card, write_card


class TorchConfig(Section):
    """What every deep model's config has."""

    epochs: int = Field(30, ge=1)
    """Most epochs; `train.patience` stops earlier."""
    batch_size: int = Field(2048, ge=1)
    """Rows per step and rank."""
    learning_rate: float = Field(1e-3, gt=0)
    """Adam's step size."""
    warmup_steps: int = Field(0, ge=0)
    """Steps in which the step size grows to `learning_rate`, in equal parts."""
    accumulate: int = Field(1, ge=1)
    """Batches whose gradients are added up for a step: the same as batches so many times as large, in less memory."""
    clip_norm: float | None = Field(None, gt=0)
    """Longest gradient of all parameters together; a longer one is cut to it."""
    weight_decay: float = Field(0.0, ge=0)
    """Adam's L2 penalty; with `sparse_gradients`, of a table's rows in the steps that look them up."""
    average: float = Field(0.0, ge=0, lt=1)
    """Decay of the moving average of the weights, which is what is validated and saved; 0 = the weights as they are."""


class RowConfig(TorchConfig):
    """What the config of a deep model has whose loss looks up single rows of its tables, and nothing else of them."""

    sparse_gradients: bool = False
    """Send and update the rows that a batch looked up, not whole tables: for tables that are large beside a batch.
    Adam's means of other rows then stand still."""

    @model_validator(mode="after")
    def _averages_no_rows(self) -> Self:
        if self.sparse_gradients and self.average:
            raise ValueError("average: whole tables are averaged, which sparse_gradients spares; set one of the two")
        return self


class TorchRecommender:
    """Scores through a network; items never trained on and unknown users get no opinion."""

    rates = False

    def __init__(
        self, name: str, network: Any, config: Any, users: np.ndarray, items: np.ndarray, length: int | None
    ) -> None:
        """Wrap a network.

        Args:
            users, items: which rows were trained, bool [n_users] and [n_items].
            length: L, the length of the padded histories that the network reads.
        """
        self.name = name
        self.network: Any = network
        self.config = config
        self.users = users
        self.items = items
        self.length = None if getattr(network, "whole_history", False) else length
        self.n_items = len(items)
        self.dot_product = hasattr(network, "item_vectors")
        network.eval()

    def _inputs(self, users: UserBlock) -> tuple[Tensor, Tensor, np.ndarray]:
        """Ids [B] and histories [B, L] with everything unknown as 0, and who can be scored [B]."""
        device = next(self.network.parameters()).device
        known = (users.user_id < len(self.users)) & self.users[np.minimum(users.user_id, len(self.users) - 1)]
        ids = np.where(known, users.user_id, 0)
        history = users.last_items(self.length or max(1, int(np.diff(users.offsets).max(initial=0))))
        history = np.where(history < self.n_items, history, 0)
        history = np.where(self.items[history], history, 0)
        scorable = np.ones(len(users), bool)
        if self.network.needs_user_id:
            scorable &= known
        if self.network.needs_history:
            scorable &= history.any(axis=1)
        return torch.from_numpy(ids).to(device), torch.from_numpy(history).to(device), scorable

    @torch.inference_mode()
    def score(self, users: UserBlock) -> Floats:
        ids, history, scorable = self._inputs(users)
        scores = self.network.score(ids, history).float().cpu().numpy()
        scores[:, ~self.items] = NO_OPINION
        scores[~scorable] = NO_OPINION
        return scores

    @torch.inference_mode()
    def user_vectors(self, users: UserBlock) -> Floats:
        ids, history, scorable = self._inputs(users)
        return self.network.user_vectors(ids, history).float().cpu().numpy() * scorable[:, None]

    @torch.inference_mode()
    def item_vectors(self) -> Floats:
        return self.network.item_vectors().float().cpu().numpy()

    def item_mask(self) -> np.ndarray:
        return self.items

    def save(self, path: Path) -> None:
        torch.save(self.network.state_dict(), path / "weights.pt")
        np.savez(path / "trained.npz", users=self.users, items=self.items)
        write_card(path, self.name, config=self.config.model_dump(), length=self.length)


def load(path: Path) -> TorchRecommender:
    """Read a saved model onto the CPU."""
    card = read_card(path)
    module = module_of(card["model"])
    config = module.Config.model_validate(card["config"])
    with np.load(path / "trained.npz") as arrays:
        users, items = arrays["users"], arrays["items"]
    network = module.Network(config, len(users), len(items))
    network.load_state_dict(torch.load(path / "weights.pt", map_location="cpu", weights_only=True))
    return TorchRecommender(card["model"], network, config, users, items, card["length"])
