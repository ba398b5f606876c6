"""Mult-VAE: a variational autoencoder of whole histories, with a multinomial likelihood (Liang et al. 2018).

Liang, Krishnan, Hoffman & Jebara 2018, "Variational autoencoders for collaborative filtering". A user is nothing but
their history, so whoever has one is served, seen in training or not. The likelihood takes the logits of the items
that a user had, and no others.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys_spark.models.autoencoder import FILES, HistoryNetwork, cells, flat, hide
from recsys_spark.models.torch_recommender import TorchConfig

SHARES = FILES


class Config(TorchConfig):
    """Sizes and schedule of Mult-VAE."""

    dim: int = Field(64, ge=1)
    """D: length of the latent vector."""
    hidden: int = Field(256, ge=1)
    """H: width of the one layer between items and latent vector, on either side."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Share of a history's items that training hides from the encoder."""
    variational: bool = True
    """Draw the latent vector and keep it near the prior; false makes it Mult-DAE of the same paper."""
    kl_weight: float = Field(0.2, ge=0)
    """β: weight of the divergence from the prior, once it has grown to it."""
    anneal_steps: int = Field(2000, ge=0)
    """Batches in which β grows from 0, in equal parts."""
    batch_size: int = Field(128, ge=1)
    """Rows of the feed per step and rank; a user of w windows is taken from about one of w rows."""


class Network(HistoryNetwork):
    """Logits π = W₂ tanh(W₁ z + b₁) + b₂ of the items, z ~ N(μ, σ²) with [μ ; log σ²] of the history."""

    steps: Tensor

    def __init__(self, config: Config, n_users: int, n_items: int) -> None:
        super().__init__(n_users, n_items)
        D, H = config.dim, config.hidden
        self.config = config
        self.item = nn.EmbeddingBag(n_items, H, mode="sum", include_last_offset=True)
        self.item_bias = nn.Parameter(torch.zeros(H))
        self.latent = nn.Linear(H, 2 * D if config.variational else D)
        self.decoder = nn.Sequential(nn.Linear(D, H), nn.Tanh(), nn.Linear(H, n_items))
        # saved, so that training that goes on has the β that it would have had
        self.register_buffer("steps", torch.zeros(1, dtype=torch.long))
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.xavier_normal_(parameter)

    def encode(self, items: Tensor, offsets: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return μ and log σ² [B, D] of histories.

        Args:
            items: the histories one behind the other, [H]; that of row b is items[offsets[b]:offsets[b + 1]].
            weights: what each item is multiplied by once the history is scaled to length 1, [H].
        """
        lengths = offsets.diff()
        scale = lengths.clamp(min=1).to(self.item_bias.dtype).rsqrt().repeat_interleave(lengths)
        taste = self.item(items, offsets, scale if weights is None else scale * weights)
        mean, *rest = self.latent(torch.tanh(taste + self.item_bias)).split(self.config.dim, dim=1)
        return mean, rest[0] if rest else None

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """-Σ log softmax(π)_i over a history's items i, + β KL(N(μ, σ²) ‖ N(0, 1)); the mean over the users."""
        user = self.each_user_once(batch["user_id"].long(), batch["length"].long(), generator)
        items, offsets = self.histories(user)
        mean, log_var = self.encode(items, offsets, hide(items, self.config.dropout, generator))
        latent = mean
        if log_var is not None:
            noise = torch.randn(mean.shape, generator=generator, device=mean.device)
            latent = mean + noise * torch.exp(log_var / 2)
        loss = multinomial(self.decoder(latent), items, offsets)
        if log_var is not None:
            loss = loss + self._beta() * divergence(mean, log_var)
        return loss

    def _beta(self) -> float:
        steps = int(self.steps)
        self.steps += 1
        return self.config.kl_weight * min(1.0, steps / max(self.config.anneal_steps, 1))

    def score(self, user: Tensor, history: Tensor) -> Tensor:
        return self.decoder(self.encode(*flat(history))[0])


def multinomial(logits: Tensor, items: Tensor, offsets: Tensor) -> Tensor:
    """-Σ log softmax(π)_i over the items of each row, [H] and [B + 1]; the mean over the rows of π, [B, n_items]."""
    whole = (torch.logsumexp(logits, dim=1) * offsets.diff()).sum()
    return (whole - logits.flatten()[cells(items, offsets, logits.shape[1])].sum()) / len(logits)


def divergence(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, 1)) = ½ Σ (σ² + μ² - 1 - log σ²), the mean over the rows of [B, D]."""
    return (log_var.exp() + mean.square() - 1 - log_var).sum() / (2 * len(mean))
