"""The moving average of a network's weights, which a model may be validated and saved with.

Late in training single updates move the weights around an optimum; their average lies nearer to it, and what is
measured swings less from epoch to epoch. Polyak & Juditsky 1992, "Acceleration of stochastic approximation by
averaging"; the decay that grows from 0 is that of tf.train.ExponentialMovingAverage.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import horovod.torch as hvd
import torch
from torch import Tensor


class Average:
    """m ← d m + (1 - d) w after update n, from 1, with d = min(decay, (1 + n) / (10 + n)); m begins as w."""

    def __init__(self, parameters: Iterable[Tensor], decay: float) -> None:
        self.parameters = list(parameters)
        self.decay = decay
        self.updates = 0
        self.means = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def __call__(self) -> None:
        """Take the weights as they are after an update."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.means, [p.detach() for p in self.parameters], 1 - decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the network have the average for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for at, parameter in enumerate(self.parameters):
            self.means[at], parameter.data = parameter.data, self.means[at]

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "means": self.means}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updates = state["updates"]
        for mean, saved in zip(self.means, state["means"], strict=True):
            mean.copy_(saved)

    def broadcast(self) -> None:
        """Give every rank what rank 0 has loaded."""
        self.updates = hvd.broadcast_object(self.updates, root_rank=0, name="averaged updates")
        hvd.broadcast_parameters({str(at): mean for at, mean in enumerate(self.means)}, root_rank=0)
