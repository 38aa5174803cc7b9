"""How a table is cut into a grid, and how what its blocks answer becomes its rows again."""

from __future__ import annotations

import pytest
import torch

from leanrec.config import TrainingSettings
from leanrec.errors import ConfigError
from leanrec.training.grid import Cut, cut_tables


def grid(rows: int, dim: int, world_size: int) -> Cut:
    return cut_tables({"item": rows}, {"item": "grid"}, dim=dim, world_size=world_size)["item"]


@pytest.mark.parametrize(
    ("rows", "world_size", "sizes"),
    [
        (10, 1, [(10, 4)] * 2),
        (10, 2, [(5, 4)] * 4),
        (10, 3, [(4, 4)] * 4 + [(2, 4)] * 2),
        (10, 4, [(5, 4)] * 4),
        (10, 8, [(3, 4)] * 6 + [(1, 4)] * 2),
        (1, 8, [(1, 4)] * 2),
    ],
)
def test_blocks_cover_the_table(rows: int, world_size: int, sizes: list[tuple[int, int]]) -> None:
    blocks = list(grid(rows, 8, world_size))
    assert [block.sizes for block in blocks] == sizes
    covered = torch.zeros(rows, 8)
    for block in blocks:
        (row, column), (num_rows, num_columns) = block.offsets, block.sizes
        covered[row : row + num_rows, column : column + num_columns] += 1
    assert bool((covered == 1).all())
    assert len({block.name for block in blocks}) == len(blocks)


@pytest.mark.parametrize("rows", [[0, 3, 4, 9], [7], [], [3, 4, 5, 6, 7]])
@pytest.mark.parametrize("by_hand", ["grid", "row_wise"])
def test_what_blocks_answer_are_the_rows_that_were_asked_for(rows: list[int], by_hand: str) -> None:
    cut = cut_tables({"item": 10}, {"item": by_hand}, dim=8, world_size=3)["item"]
    table = torch.arange(80.0).reshape(10, 8)
    held = {block.name: table.narrow(0, block.offsets[0], block.sizes[0]) for block in cut}
    held = {block.name: held[block.name].narrow(1, block.offsets[1], block.sizes[1]) for block in cut}
    wanted = torch.tensor(rows, dtype=torch.long)
    asked = cut.ask(wanted)
    assert torch.equal(cut.join({name: held[name][own] for name, own in asked.items()}), table[wanted])


def test_a_table_that_is_no_grid_is_one_block_of_its_own_name() -> None:
    cut = cut_tables({"item": 10, "user": 3}, {"user": "grid"}, dim=8, world_size=2)["item"]
    (block,) = cut
    assert not cut.is_grid and block.name == "item" and block.sizes == (10, 8)


def test_columns_that_cannot_be_cut_in_two_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"grid cuts the 12 columns of the table 'item' in 2.* take row_wise"
    ):
        grid(10, 12, 2)


def test_packed_vectors_are_not_cut() -> None:
    settings = {"sharding": {"item": "grid"}, "exchange": "int8"}
    with pytest.raises(
        ConfigError, match="exchange 'int8' packs vectors whole, and sharding 'grid' of 'item'"
    ):
        TrainingSettings.parse(settings)
