"""Plain models whose tables stay in the host's memory, so that a GPU holds its part of the tables alone.

Plain weights go into training and come out of it, candidates are drawn and validation is made with them; all
of that looks rows up and needs no gradient, and so the rows alone go to the GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from torch import Tensor, nn

from leanrec.models.layers import SparseArch


class HostTable(nn.Embedding):
    """A table that stays where it is when its model goes elsewhere, and answers on the indices' device.

    Example:
        >>> HostTable(nn.Embedding(10, 4))(torch.zeros(2, 3, dtype=torch.long)).shape
        torch.Size([2, 3, 4])
    """

    def __init__(self, table: nn.Embedding) -> None:
        """Takes over the weight of `table`, and no copy of it."""
        super().__init__(table.num_embeddings, table.embedding_dim, _weight=table.weight)
        self.weight = table.weight

    def forward(self, index: Tensor) -> Tensor:
        """Indices [...] to vectors [..., dim]."""
        return super().forward(index.to(self.weight.device)).to(index.device)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        return self


def keep_tables_on_host(model: nn.Module) -> None:
    """Let the tables of every `SparseArch` in `model` stay in the memory in which they are."""
    for sparse in model.modules():
        if isinstance(sparse, SparseArch):
            for name, table in sparse.tables.items():
                assert isinstance(table, nn.Embedding)
                sparse.tables[name] = HostTable(table)
