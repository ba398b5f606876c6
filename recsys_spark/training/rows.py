"""Tables whose gradients are rows: what a batch looked up is sent between the ranks and updated, and nothing else.

A table of users has as many rows as there are users, and a batch looks at a few thousand of them. Its gradient is then
kept as the rows that were looked up, each once, with their sums. Every rank takes part for every table in every update,
if only with no rows, because the ranks meet in the exchange.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import horovod.torch as hvd
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def row_tables(network: nn.Module) -> dict[str, Tensor]:
    """Return the tables of a network whose gradients are sparse, by name: those of `nn.Embedding(..., sparse=True)`."""
    return {
        f"{name}.weight": module.weight
        for name, module in network.named_modules()
        if isinstance(module, nn.Embedding) and module.sparse
    }


def summed(rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Add up what belongs to one row: the distinct rows [R], sorted, and their sums [R, D], of rows [E] and [E, D].

    The sums do not depend on timing: each is made in the order of the entries. `Tensor.coalesce` gives the same, but
    takes several times as long on a CPU.

    >>> summed(torch.tensor([7, 2, 7]), torch.tensor([[1.0], [5.0], [3.0]]))
    (tensor([2, 7]), tensor([[5.],
            [4.]]))
    """
    if not len(rows):
        return rows, values
    in_order, order = torch.sort(rows, stable=True)
    distinct, counts = torch.unique_consecutive(in_order, return_counts=True)
    return distinct, F.embedding_bag(order, values, counts.cumsum(0) - counts, mode="sum")


def exchange(tables: Mapping[str, Tensor]) -> None:
    """Put the ranks' mean in place of each table's gradient: a coalesced sparse tensor, the same on every rank.

    Every rank calls this for the same tables in the same order. Values travel as float32, whatever dense gradients do:
    sums of rows that few ranks have are no place to lose digits.
    """
    own = {name: summed(*_entries(name, table)) for name, table in tables.items()}
    if hvd.size() == 1:
        for name, table in tables.items():
            _put(table, *own[name])
        return
    sent = {
        name: (
            hvd.allgather_async(rows.int(), name=f"{name}.rows"),
            hvd.allgather_async(values, name=f"{name}.values"),
        )
        for name, (rows, values) in own.items()
    }
    for name, handles in sent.items():
        rows, values = (hvd.synchronize(handle) for handle in handles)
        rows, values = summed(rows.long(), values.view(len(rows), *tables[name].shape[1:]))
        _put(tables[name], rows, values.div_(hvd.size()))


def _entries(name: str, table: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows [E] and gradients [E, D] of what was looked up; none where nothing was."""
    gradient = table.grad
    if gradient is None:
        return torch.empty(0, dtype=torch.long, device=table.device), table.new_empty(0, *table.shape[1:])
    if not gradient.is_sparse:
        raise TypeError(f"{name} is a table of sparse gradients, but its loss reads more than single rows of it")
    return gradient._indices()[0], gradient._values()


def _put(table: Tensor, rows: Tensor, values: Tensor) -> None:
    table.grad = torch.sparse_coo_tensor(rows[None], values, table.shape, is_coalesced=True, check_invariants=False)


class RowAdam(torch.optim.Optimizer):
    """Adam for each row by itself: a row that has no gradient stays as it is, and so do its means.

    A row's path is the one that Adam (Kingma & Ba 2015, "Adam: a method for stochastic optimization", algorithm 1)
    would take if it saw this row's gradients alone, one after the other; t counts the row's own updates. Dense Adam
    differs in that it moves every row in every step, also those that nobody looked up, along their fading means. Where
    every row has a gradient in every step, the two are equal. `torch.optim.SparseAdam` counts t for the whole table:
    the first step of a row that comes late is then three times as long as the learning rate.

    Gradients are coalesced, as `exchange` leaves them.
    """

    def __init__(
        self,
        tables: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        """Make the optimizer and its state: two means of a table's size, and a number for each row.

        Args:
            weight_decay: L2 penalty, on rows that have a gradient alone.
        """
        super().__init__(tables, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        for group in self.param_groups:
            for table in group["params"]:
                # all of it at once, so that the ranks have the same state to send, whoever looked up what
                self.state[table] = {
                    "updates": table.new_zeros(len(table)),  # a float: torch gives a state its parameter's type
                    "mean": torch.zeros_like(table, requires_grad=False),
                    "mean_square": torch.zeros_like(table, requires_grad=False),
                }

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self._update(table, table.grad.indices()[0], table.grad.values(), group)

    def _update(self, table: Tensor, rows: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (beta, beta_square) = self.state[table], group["betas"]
        weight = table.index_select(0, rows)
        if group["weight_decay"]:
            gradient = gradient.add(weight, alpha=group["weight_decay"])
        updates = state["updates"].index_select(0, rows).add_(1)
        mean = state["mean"].index_select(0, rows).lerp_(gradient, 1 - beta)
        square = state["mean_square"].index_select(0, rows).mul_(beta_square)
        square.addcmul_(gradient, gradient, value=1 - beta_square)
        for name, values in (("updates", updates), ("mean", mean), ("mean_square", square)):
            state[name].index_copy_(0, rows, values)
        # in double precision: 1 - 0.999 has four digits in single
        unbiased, unbiased_square = (
            (1 - b ** updates.double()).to(table.dtype).view(-1, *[1] * (table.dim() - 1)) for b in (beta, beta_square)
        )
        deviation = square.div_(unbiased_square).sqrt_().add_(group["eps"])
        table.index_copy_(0, rows, weight.sub_(mean.div_(unbiased).div_(deviation), alpha=group["lr"]))
