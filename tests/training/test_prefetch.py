"""The batch that a thread makes ahead is the one that would have been made, and nothing of it is lost."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from leanrec.training.prefetch import Prefetcher

CPU = torch.device("cpu")


def test_a_batch_is_made_while_the_one_before_is_in_use() -> None:
    begun, taken = threading.Event(), []

    def make(rows: Tensor) -> Tensor:
        begun.set()
        return rows * 2

    with Prefetcher(make, CPU) as batches:
        batches.ahead(torch.tensor([1, 2]))
        assert begun.wait(60), "nothing was made before it was asked for"
        taken += [batches.take(torch.tensor([1, 2])), batches.take(torch.tensor([3]))]
    assert [batch.tolist() for batch in taken] == [[2, 4], [6]]


def test_draws_are_those_of_batches_made_one_after_another() -> None:
    steps = [torch.arange(5) + i for i in range(7)]

    def drawn(ahead: set[int]) -> list[list[int]]:
        draw = torch.Generator().manual_seed(3)
        made = []
        with Prefetcher(lambda rows: torch.randint(1000, (len(rows),), generator=draw), CPU) as batches:
            for i, rows in enumerate(steps):
                made.append(batches.take(rows).tolist())
                if i + 1 in ahead:
                    batches.ahead(steps[i + 1])
        return made

    assert drawn(set()) == drawn({1, 2, 3, 4, 5, 6}) == drawn({2, 3, 6})


def test_what_fails_ahead_is_raised_where_it_is_asked_for_and_leaves_no_thread() -> None:
    def make(rows: Tensor) -> Tensor:
        raise ValueError("no such row")

    with pytest.raises(ValueError, match="no such row"), Prefetcher(make, CPU) as batches:
        batches.ahead(torch.tensor([1]))
        batches.take(torch.tensor([1]))
    assert not any(thread.name.startswith("prefetch") for thread in threading.enumerate())
