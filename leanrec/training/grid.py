"""Tables cut by rows and by columns, so that processes share them as the fields of a grid.

TorchRec (1.8) has its grid for lookups that are pooled alone, which the lookups of these models are not. So
each block of a grid is a table of its own to TorchRec, which one process holds whole: its planner deals the
blocks out, its exchange is the one of all tables, and what a block answers is put back in its place here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from leanrec.errors import ConfigError

GRID = "grid"
"""What `training.sharding` calls it."""
COLUMNS = 2
"""Parts that the columns of a grid are cut into."""
MULTIPLE = 4
"""Of which the columns of a part must be one: fbgemm's kernels ask for it."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A part of a table that is a table to TorchRec."""

    name: str
    table: str
    offsets: tuple[int, int]
    """Its first row and its first column in the table."""
    sizes: tuple[int, int]
    """Its rows and columns."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Where a table of `rows` x `dim` is cut: into one block, or into those of a grid."""

    table: str
    rows: int
    dim: int
    rows_a_block: int
    columns_a_block: int

    @property
    def is_grid(self) -> bool:
        """Whether it is more than one block."""
        return (self.rows_a_block, self.columns_a_block) != (self.rows, self.dim)

    def __iter__(self) -> Iterator[Block]:
        """The blocks, row of blocks by row."""
        for row in range(0, self.rows, self.rows_a_block):
            for column in range(0, self.dim, self.columns_a_block):
                place = f"[{row // self.rows_a_block},{column // self.columns_a_block}]"
                yield Block(
                    name=self.table + (place if self.is_grid else ""),
                    table=self.table,
                    offsets=(row, column),
                    sizes=(min(self.rows_a_block, self.rows - row), self.columns_a_block),
                )

    def ask(self, rows: Tensor) -> dict[str, Tensor]:
        """Block -> which of its own rows are wanted, of `rows` [N] of the table in rising order."""
        if not self.is_grid:
            return {self.table: rows}
        starts = torch.arange(0, self.rows, self.rows_a_block, device=rows.device)
        parts = rows.tensor_split(torch.searchsorted(rows, starts[1:]).tolist())
        return {block.name: parts[i] - block.offsets[0] for i, block in self._by_row_of_blocks()}

    def join(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """The vectors [N, dim] of the rows that `ask` was given, from what the blocks answer."""
        if not self.is_grid:
            return vectors[self.table]
        by_row: dict[int, list[Tensor]] = {}
        for i, block in self._by_row_of_blocks():
            by_row.setdefault(i, []).append(vectors[block.name])
        return torch.cat([torch.cat(parts, dim=1) for parts in by_row.values()])

    def _by_row_of_blocks(self) -> Iterator[tuple[int, Block]]:
        return ((block.offsets[0] // self.rows_a_block, block) for block in self)


def cut_tables(
    tables: Mapping[str, int], by_hand: Mapping[str, str], *, dim: int, world_size: int
) -> dict[str, Cut]:
    """Where each of `tables` (name -> rows) of `dim` columns is cut for `world_size` processes.

    A grid has two columns of blocks, and rows of them so that each process has one block (where they are even
    and four at least), or two. Raises a ConfigError where the columns cannot be cut in two.
    """
    even = world_size >= 2 * COLUMNS and world_size % COLUMNS == 0
    parts = world_size // COLUMNS if even else world_size
    cuts = {}
    for table, rows in tables.items():
        is_grid = by_hand.get(table) == GRID
        if is_grid and dim % (COLUMNS * MULTIPLE):
            raise ConfigError(
                f"training.sharding: grid cuts the {dim} columns of the table {table!r} in {COLUMNS}, each "
                f"of a multiple of {MULTIPLE}; make retriever.dim and ranker.dim multiples of "
                f"{COLUMNS * MULTIPLE}, or take row_wise"
            )
        cuts[table] = Cut(
            table=table,
            rows=rows,
            dim=dim,
            rows_a_block=math.ceil(rows / parts) if is_grid else rows,
            columns_a_block=dim // COLUMNS if is_grid else dim,
        )
    return cuts
