"""From gradients to weights: the ranks' mean, precision, clipping, an Adam for layers and one for tables of rows."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import horovod.torch as hvd
import torch
from torch import Tensor, nn

from recsys_spark.training.average import Average
from recsys_spark.training.job import TrainingJob
from recsys_spark.training.rows import RowAdam, exchange, row_tables
from recsys_spark.training.schedule import WARMUP_EPOCHS, learning_rate

_COMPRESSION = {"none": hvd.Compression.none, "fp16": hvd.Compression.fp16}


class Updates:
    """The optimizers of a network, and all that lies between a batch's loss and them.

    Parameters whose gradients are dense go through Horovod's optimizer, which sends each while the next is computed.
    Tables of rows are exchanged by `recsys_spark.training.rows`, which adds up a batch's look-ups before they are sent.
    """

    def __init__(self, network: nn.Module, config: Any, job: TrainingJob, steps: int, device: torch.device) -> None:
        """Wrap a network that is on its device.

        Args:
            config: the model's.
            steps: batches of an epoch.
        """
        self.config, self.device = config, device
        self.dtype = getattr(torch, job.precision)
        self.per_epoch = -(-steps // config.accumulate)
        self.ranks = hvd.size() if job.scale_learning_rate else 1
        self.warmup = config.warmup_steps or (WARMUP_EPOCHS * self.per_epoch if self.ranks > 1 else 0)
        self.tables = row_tables(network)
        layers = {n: p for n, p in network.named_parameters() if p.requires_grad and n not in self.tables}
        settings = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
        self.optimizers: dict[str, Any] = {}
        if layers:
            # fused: one pass over every table instead of one for each operation of the formula
            adam = torch.optim.Adam(layers.values(), **settings, fused=True)
            self.optimizers["layers"] = hvd.DistributedOptimizer(
                adam, named_parameters=layers.items(), compression=_COMPRESSION[job.compression],
                backward_passes_per_step=config.accumulate,
            )  # fmt: skip
        if self.tables:
            self.optimizers["rows"] = RowAdam(self.tables.values(), **settings)
        self.average = Average(layers.values(), config.average) if config.average else None
        # float16 has no small numbers: the loss is multiplied, so that its gradients are none
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context that a loss is computed in."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def backward(self, loss: Tensor, batches: int) -> None:
        """Add the gradients of a batch's loss to those that wait, as one of so many batches."""
        self.scaler.scale(loss / batches).backward()

    def __call__(self, number: int) -> None:
        """Make the update of this number, from 0, of what gradients there are, and forget them."""
        rate = learning_rate(number, self.config.learning_rate, self.warmup, self.ranks)
        exchange(self.tables)
        if "layers" in self.optimizers:
            self.optimizers["layers"].synchronize()
        for optimizer in self.optimizers.values():
            self.scaler.unscale_(optimizer)
        if self.config.clip_norm is not None:
            self._clip(self.config.clip_norm)  # the ranks' mean is what is cut
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = rate
            with optimizer.skip_synchronize() if name == "layers" else contextlib.nullcontext():
                self.scaler.step(optimizer)
        self.scaler.update()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        if self.average is not None:
            self.average()

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Return the context in which the network has the weights that are validated and saved."""
        return contextlib.nullcontext() if self.average is None else self.average.in_place()

    def _clip(self, most: float) -> None:
        """Shorten the gradient of all parameters together to `most`."""
        parameters = [p for o in self.optimizers.values() for g in o.param_groups for p in g["params"]]
        gradients = [p.grad.values() if p.grad.is_sparse else p.grad for p in parameters if p.grad is not None]
        share = (most / (torch.nn.utils.get_total_norm(gradients) + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(share)

    def state_dict(self) -> dict[str, Any]:
        state = {**{n: o.state_dict() for n, o in self.optimizers.items()}, "scaler": self.scaler.state_dict()}
        return state if self.average is None else {**state, "average": self.average.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state[name])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    def broadcast(self) -> None:
        """Give every rank the state that rank 0 has loaded."""
        if "layers" in self.optimizers:
            hvd.broadcast_optimizer_state(self.optimizers["layers"], root_rank=0)
        if "rows" in self.optimizers:
            rows = self.optimizers["rows"]
            state = {f"{n}.{k}": v for n, t in self.tables.items() for k, v in rows.state[t].items()}
            hvd.broadcast_parameters(state, root_rank=0)
        self.scaler.load_state_dict(hvd.broadcast_object(self.scaler.state_dict(), root_rank=0, name="scaler"))
        if self.average is not None:
            self.average.broadcast()
