"""Sharing batches out: every row once, equal shares or shares by speed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from leanrec.errors import ConfigError
from leanrec.training.batches import batches, parts_by_speed


def shared_out(world_size: int, speeds: Sequence[float] = ()) -> list[tuple[torch.Tensor, ...]]:
    """Step by step the rows of all processes, of 101 in batches of 20."""
    ranks = [
        batches(101, 20, seed=1, epoch=2, rank=rank, world_size=world_size, speeds=speeds)
        for rank in range(world_size)
    ]
    return list(zip(*ranks, strict=True))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_processes_share_each_batch_out_and_no_row_is_used_twice(world_size: int) -> None:
    steps = shared_out(world_size)
    for step in steps:
        assert len({len(rows) for rows in step}) == 1
    used = torch.cat([rows for step in steps for rows in step])
    assert len(used) == len(used.unique()) > 101 - 6 * world_size


@pytest.mark.parametrize("speeds", [(3.0, 1.0), (1.0, 1e-9, 5.0)])
def test_by_speed_no_row_of_a_batch_is_left_out(speeds: tuple[float, ...]) -> None:
    steps = shared_out(len(speeds), speeds)
    assert len(steps) == 5, "the last batch is of one row"
    for step in steps:
        assert [len(rows) for rows in step] == parts_by_speed(20, speeds)
    used = torch.cat([rows for step in steps for rows in step])
    assert len(used) == len(used.unique()) == 100


@pytest.mark.parametrize(
    ("rows", "speeds", "parts"),
    [
        (100, (1.0, 1.0), [50, 50]),
        (101, (1.0, 1.0), [51, 50]),
        (100, (3.0, 1.0), [75, 25]),
        (10, (1000.0, 1.0, 1.0), [8, 1, 1]),
        (3, (5.0, 1.0, 1.0), [1, 1, 1]),
        (2048, (0.2, 0.1, 0.1, 0.1), [820, 410, 409, 409]),
    ],
)
def test_parts_are_in_proportion_to_speeds(rows: int, speeds: tuple[float, ...], parts: list[int]) -> None:
    found = parts_by_speed(rows, speeds)
    assert sum(found) == rows and min(found) >= 1
    assert found == pytest.approx(parts, abs=2)  # a row each is given first


def test_another_epoch_has_another_order_and_the_same_epoch_the_same() -> None:
    def order(epoch: int) -> torch.Tensor:
        return torch.cat(list(batches(50, 10, seed=1, epoch=epoch)))

    assert torch.equal(order(0), order(0)) and not torch.equal(order(0), order(1))


def test_shares_that_are_the_negatives_must_be_alike() -> None:
    from leanrec.config import TrainingSettings

    retriever = {"negatives": "in_batch", "full_softmax_items": 0}
    with pytest.raises(ConfigError, match=r"balance 'measured' gives .* 'in_batch'.* set balance: equal"):
        TrainingSettings.parse({"balance": "measured", "retriever": retriever})
