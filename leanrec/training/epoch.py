"""One epoch, from its beginning or from where a checkpoint stands in it."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from leanrec.errors import TrainingError
from leanrec.training.batches import batches, weigh
from leanrec.training.course import Course, State, refuse_no_numbers, save
from leanrec.training.optimizers import group_of, rate_at
from leanrec.training.prefetch import Prefetcher
from leanrec.training.random_state import random_state, take_up_random
from leanrec.training.sharded_model import ShardedModel
from leanrec.training.sparse import collective_device

TELL_EVERY_S = 30.0
"""Seconds between two lines of progress within an epoch."""


def train_epoch(sharded: ShardedModel, course: Course, state: State) -> dict[str, Any]:
    """Train the epoch and tell how it went: loss, seconds, samples_per_s, learning_rate, phases (seconds).

    Raises a TrainingError when the loss is not a number, or when the events do not fill the processes.
    """
    progress, settings = state.progress, course.settings.optimizer
    epoch, world_size = progress.epochs_done, dist.get_world_size()
    draw = _draw_from(course.seed, progress.epochs_done, progress.step)
    take_up_random(state.random, draw)
    steps = _steps(course, epoch, progress.speeds)
    speeds = progress.speeds or [1.0] * world_size
    share = speeds[dist.get_rank()] / sum(speeds)
    sharded.parallel.train()
    sharded.num_skipped = 0
    started = saved = time.perf_counter()
    done, before, loss_sum = progress.step, progress.seconds, progress.loss_sum
    told = started
    rate = 1.0  # where more processes go on than began, no step may be left
    device = collective_device()

    def make(rows: Tensor) -> tuple[Any, tuple[Any, ...]]:
        batch = course.examples.take(rows).to(device)
        return batch, course.prepare(batch, draw)

    with course.watch.epoch(epoch, len(steps)) as watch, Prefetcher(make, device) as made:
        while done < len(steps):
            rows = steps[done]
            with watch.phase("data"):
                batch, prepared = made.take(rows)
                if progress.speeds:
                    weigh(sharded.objective, batch)
            place, size = group_of(done, len(steps), settings.accumulate)
            goes_on = done + 1 < len(steps)
            is_synced = course.replicas.num == 1 or (done + 1) % course.sync_every == 0 or not goes_on
            can_save = place + 1 == size and goes_on and is_synced
            is_due = can_save and _is_due(saved, course.checkpoint_every_s)
            if course.prefetch and goes_on and not is_due:  # a checkpoint holds the random state of its step
                made.ahead(steps[done + 1])
            rate = rate_at(settings, epoch * len(steps) + done, len(steps), course.settings.epochs)
            loss = sharded.step(*prepared, rate=rate, place=place, size=size, sync=is_synced, watch=watch)
            if not math.isfinite(loss):
                raise TrainingError(_no_number(course, loss, epoch, done, rows))
            loss_sum, done = loss_sum + loss, done + 1
            watch.step(done, loss, rate * course.settings.learning_rate, round(len(batch.item_index) / share))
            if time.perf_counter() - told >= TELL_EVERY_S:
                told = time.perf_counter()
                course.log(
                    f"{course.name}: epoch {epoch + 1}/{course.settings.epochs} step {done}/{len(steps)} "
                    f"loss {loss:.4f}"
                )
            if is_due:
                progress.step, progress.seconds = done, before + time.perf_counter() - started
                progress.loss_sum = _sum(loss_sum) / world_size
                refuse_no_numbers(course, f"epoch {epoch + 1}, step {done}", sharded)
                save(course, state, sharded, random_state(draw))
                saved = time.perf_counter()
    if sharded.num_skipped * 2 > len(steps) / settings.accumulate:
        raise TrainingError(
            f"the {course.name}'s gradients left the range of fp16 in {sharded.num_skipped} steps of "
            f"epoch {epoch + 1}, more than half; set training.{course.name}.optimizer.precision: bf16 or fp32"
        )
    seconds = before + time.perf_counter() - started
    return {
        "epoch": epoch + 1,
        "loss": _sum(loss_sum / len(steps)) / world_size,
        "seconds": seconds,
        "samples_per_s": _sum(course.examples.num_events_at(torch.cat(steps))) / seconds,
        "learning_rate": rate * course.settings.learning_rate,
        "phases": dict(watch.seconds),
    }


def _draw_from(seed: int, epoch: int, step: int) -> torch.Generator:
    """Random draws begin anew with each epoch, so that a run that goes on draws what it would have drawn."""
    first = (seed * 1000 + epoch) * 1000 + dist.get_rank() + step
    torch.manual_seed(first)
    return torch.Generator().manual_seed(first + 500)


def _steps(course: Course, epoch: int, speeds: list[float]) -> list[Tensor]:
    """This process's rows of each step."""
    world_size = dist.get_world_size()
    size = course.settings.batch_size
    steps = list(
        batches(
            len(course.examples),
            size,
            seed=course.seed,
            epoch=epoch,
            rank=dist.get_rank(),
            world_size=world_size,
            speeds=speeds,
        )
    )
    if not steps:
        raise TrainingError(
            f"a batch of {min(size, len(course.examples))} training events leaves some of {world_size} "
            f"processes without one; lower training.num_processes, or raise training.{course.name}.batch_size"
        )
    return steps


def _no_number(course: Course, loss: float, epoch: int, done: int, rows: Tensor) -> str:
    shown = ", ".join(str(row) for row in rows[:5].tolist())
    return (
        f"the {course.name}'s loss is {loss} in epoch {epoch + 1}, step {done + 1}, on a batch that begins "
        f"with rows {shown} of its training data; the last checkpoint is kept: look at these rows, or lower "
        f"training.{course.name}.learning_rate or table_learning_rate and {course.to_go_on}"
    )


def _is_due(saved: float, every_s: float) -> bool:
    """Whether it is time for a checkpoint by rank 0's clock; every process must ask."""
    if every_s == 0:
        return False
    due = torch.tensor([time.perf_counter() - saved >= every_s], device=collective_device())
    dist.broadcast(due, src=0)
    return bool(due)


def _sum(value: float) -> float:
    """Of all processes."""
    total = torch.tensor([value], dtype=torch.float64, device=collective_device())
    dist.all_reduce(total)
    return float(total)
