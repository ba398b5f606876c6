"""What SASRec and BERT4Rec share: blocks of self-attention, one on the other, and how they are configured."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from recsys_spark.models import sequence
from recsys_spark.models.sequence import Dropout, SequenceConfig

FILES = ("models/attention.py", *sequence.FILES)
"""What a model of attention `SHARES`."""


class AttentionConfig(SequenceConfig):
    """Sizes of the blocks."""

    length: int = Field(50, ge=2)
    """Newest items of a history that are read; positions beyond `dataset.history_length` are never trained."""
    blocks: int = Field(2, ge=1)
    """Attention blocks, one on the other."""
    heads: int = Field(1, ge=1)
    """Parts that attention is computed in; `dim` is a multiple of them."""
    hidden: int = Field(64, ge=1)
    """Width of each block's feed-forward layer."""
    learning_rate: float = Field(1e-3, gt=0)


class Block(nn.Module):
    """Self-attention and a feed-forward layer: x + attend(norm(x)), then x + feed(norm(x)).

    Vaswani et al. 2017, "Attention is all you need", normalised before each layer as in Xiong et al. 2020, "On layer
    normalization in the transformer architecture". The attention weights have no dropout: the fast kernels have none.
    """

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.feed_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query_key_value, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.feed = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return [B, L, D] of [B, L, D].

        Args:
            seen: the positions that every position looks at, bool [B, L]; without it, each looks at itself and those
                before it.
        """
        x = x + self.dropout(self._attend(self.attention_norm(x), seen))
        return x + self.dropout(self.feed(self.feed_norm(x)))

    def _attend(self, x: Tensor, seen: Tensor | None) -> Tensor:
        B, L, D = x.shape
        query, key, value = self.query_key_value(x).view(B, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        mask = None if seen is None else seen[:, None, None, :].expand(B, 1, L, L)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
        return self.out(mixed.transpose(1, 2).reshape(B, L, D))


class AttentionStack(nn.Module):
    """Embedded items and their positions through all blocks, normalised at the end."""

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        self.scale = config.dim**0.5
        self.position = nn.Embedding(config.length, config.dim)
        self.blocks = nn.ModuleList(
            Block(config.dim, config.heads, config.hidden, config.dropout) for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, embedded: Tensor, place: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return [B, L, D] of embedded items [B, L, D] at positions [B, L] or [L]; `seen` as a block has it."""
        x = self.dropout(embedded * self.scale + self.position(place))
        for block in self.blocks:
            x = block(x, seen)
        return self.norm(x)
