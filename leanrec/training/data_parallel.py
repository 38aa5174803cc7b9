"""Tables that every process holds whole: small ones, of which a batch looks up nearly all rows anyway.

Nothing of them travels in a lookup. DDP averages their gradients, whole, with those of the dense part; their
optimizer is the one that sharded tables have fused into the backward pass, standing by itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

DATA_PARALLEL = "data_parallel"
"""What `training.sharding` calls it."""
EPS = 1e-8
"""What is added to the square root of a sum before a gradient is divided by it, whoever holds the table."""
OPTIMIZERS = {"adagrad": torch.optim.Adagrad, "rowwise_adagrad": RowWiseAdagrad}


def named_in(by_hand: Mapping[str, str], tables: Mapping[str, int]) -> dict[str, int]:
    """Of `tables` (name -> rows) those that every process holds whole."""
    return {table: rows for table, rows in tables.items() if by_hand.get(table) == DATA_PARALLEL}


class DataParallelOptimizer:
    """Adagrad, or row-wise Adagrad, of tables that a process holds whole; of none it does nothing."""

    def __init__(self, kind: str, tables: Mapping[str, nn.Parameter], learning_rate: float) -> None:
        self._tables = dict(tables)
        self._learning_rate = learning_rate
        self._optimizer: torch.optim.Optimizer | None = None
        if tables:
            self._optimizer = OPTIMIZERS[kind](tables.values(), lr=learning_rate, eps=EPS)

    def set_rate(self, rate: float) -> None:
        """Multiply the learning rate by `rate`."""
        for group in self._optimizer.param_groups if self._optimizer else ():
            group["lr"] = self._learning_rate * rate

    def forget_gradients(self) -> None:
        """Before a backward pass whose gradients are not to be added to those of the one before."""
        if self._optimizer is not None:
            self._optimizer.zero_grad(set_to_none=True)

    def step(self, num_added: int) -> None:
        """Follow the gradients, each the sum of `num_added`."""
        for table in self._tables.values():
            if table.grad is not None:
                table.grad /= num_added
        if self._optimizer is not None:
            self._optimizer.step()

    def sums(self) -> dict[str, Tensor]:
        """Table -> sums of squared gradients, one for each weight [rows, columns], on the host.

        One a row stands in each column of the row.
        """
        return {
            name: self._sum(table).to("cpu", copy=True).expand(table.shape).contiguous()
            for name, table in self._tables.items()
        }

    def load_sums(self, sums: Mapping[str, Tensor]) -> None:
        """Take over what `sums` gave; a sum a row is the mean of the row's."""
        with torch.no_grad():
            for name, table in self._tables.items():
                if name in sums:
                    own = self._sum(table)
                    found = sums[name].double()  # in float64 the mean of equal numbers is that number
                    own.copy_(found if own.shape == table.shape else found.mean(dim=1, keepdim=True))

    def _sum(self, table: nn.Parameter) -> Tensor:
        assert self._optimizer is not None
        found: Tensor = self._optimizer.state[table]["sum"]
        return found
