"""GRU4Rec: a recurrent network over the items (Hidasi et al. 2016, "Session-based recommendations with recurrent
neural networks"), trained on every position of a window in one pass, where the paper keeps sessions side by side.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from recsys_spark.models.dropout import Dropout
from recsys_spark.models.sequence import FILES, NextItemNetwork, SequenceConfig, initialise

SHARES = FILES
_CELLS = {"gru": nn.GRU, "lstm": nn.LSTM}


class Config(SequenceConfig):
    """Sizes of GRU4Rec."""

    cell: Literal["gru", "lstm"] = "gru"
    """What the layers are made of."""
    hidden: int = Field(128, ge=1)
    """Width of the recurrent layers."""
    layers: int = Field(1, ge=1)
    """Recurrent layers, one on the other."""
    learning_rate: float = Field(1e-3, gt=0)


class Network(NextItemNetwork):
    """The state after each item, brought to the length of the item embeddings."""

    def __init__(self, config: Config, n_users: int, n_items: int) -> None:
        super().__init__(config, n_items)
        self.cells = _CELLS[config.cell](config.dim, config.hidden, config.layers, batch_first=True)
        self.out = nn.Linear(config.hidden, config.dim)
        self.dropout = Dropout(config.dropout)
        initialise(self)

    def forward(self, items: Tensor) -> Tensor:
        states, _ = self.cells(self.dropout(self.item(items)))
        return self.out(states)
