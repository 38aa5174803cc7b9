"""Each process's share of each batch: equal ones, or such as suit its measured speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from leanrec.training.sparse import collective_device

PROBES = 3
"""Times that a process is timed, of which the fastest counts."""


def batches(
    num_rows: int,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
    speeds: Sequence[float] = (),
) -> Iterator[Tensor]:
    """This process's rows of each batch of one epoch; every process gets equally many batches.

    The order is drawn from (seed, epoch) and is the same in every process; process r takes every
    world_size-th row from the r-th on, and the last rows that do not fill every process are left out. With
    `speeds`, one a process, each takes rows in proportion to its own.
    """
    draw = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(num_rows, generator=draw)
    for start in range(0, num_rows, batch_size):
        batch = order[start : start + batch_size]
        if len(batch) < world_size:
            continue
        if speeds:
            yield batch.split(parts_by_speed(len(batch), speeds))[rank]
        else:
            yield batch[: len(batch) // world_size * world_size][rank::world_size]


def weigh(objective: Any, batch: Any) -> None:
    """Let the mean over processes of `objective`'s losses be the loss of the whole batch; each must call it.

    `batch` is this process's share, of any size.
    """
    own = torch.tensor(objective.divisors(batch), dtype=torch.float64, device=collective_device())
    everybody = own.clone()
    dist.all_reduce(everybody)
    objective.weights = tuple((own * dist.get_world_size() / everybody.clamp(min=1e-6)).tolist())


def measured_speeds(probe: Callable[[], object]) -> list[float]:
    """How often a second each process does `probe`, which waits for no other; every process must call it.

    All of them do it at the same time, so that processes of one host are in each other's way as in training.
    """
    seconds = []
    for _ in range(PROBES):
        dist.barrier()
        started = time.perf_counter()
        probe()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    own = torch.tensor([1 / min(seconds)], dtype=torch.float64, device=collective_device())
    everybody = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(everybody, own)
    return [float(speed) for speed in everybody]


def parts_by_speed(num_rows: int, speeds: Sequence[float]) -> list[int]:
    """Rows of a batch of `num_rows` for each process, at least one: what is left over goes where most is due.

    `num_rows` is at least the number of speeds, all of which are above 0.
    """
    total, spare = sum(speeds), num_rows - len(speeds)
    due = [spare * speed / total for speed in speeds]
    parts = [1 + int(share) for share in due]
    by_remainder = sorted(range(len(due)), key=lambda i: (int(due[i]) - due[i], i))
    for i in by_remainder[: num_rows - sum(parts)]:
        parts[i] += 1
    return parts
