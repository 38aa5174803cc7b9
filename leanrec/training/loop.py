"""Epochs of one model: train, gather, prove the scores equal, validate, keep the best, checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from leanrec.config import RankerSettings, RetrieverSettings
from leanrec.errors import TrainingError
from leanrec.training.checkpoint import Checkpoints, Groups, Progress
from leanrec.training.examples import Examples, batches
from leanrec.training.plan import Gathered, ShardedModel, sums_of
from leanrec.training.random_state import gather_random, take_up_random
from leanrec.training.sparse import collective_device

MAX_GATHER_DIFFERENCE = 1e-5
"""Bound on |score of the sharded model - score of the plain one|."""
PROBE_EVENTS = 256

Prepare = Callable[[Examples, torch.Generator], tuple[Any, ...]]


@dataclass(frozen=True, kw_only=True)
class Course:
    """Everything that one model's training needs besides the model."""

    name: str
    """"retriever" or "ranker", for the log and the curves."""
    settings: RetrieverSettings | RankerSettings
    seed: int
    examples: Examples
    probe: Examples
    prepare: Prepare
    """From a share of a batch to what the objective's `forward` takes."""
    validate: Callable[[], dict[str, float]]
    """On rank 0: figures of the plain model."""
    checkpoints: Checkpoints
    checkpoint_every_s: float
    """Seconds between two checkpoints within an epoch; 0: after each epoch only."""
    log: Callable[[str], None]
    sums: dict[str, Tensor] | None = None
    """Adagrad's sums to go on with, where the model's weights are a release's; None: they are fresh."""
    merit: Callable[[dict[str, float]], float] = itemgetter("ndcg")
    """Which epoch is the best: the one of whose figures this is the highest."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What training left besides the weights in the model."""

    curves: list[dict[str, Any]]
    sums: dict[str, Tensor]
    """On rank 0: Adagrad's sums of the tables at the best epoch."""


def fit(objective: nn.Module, course: Course) -> Fitted:
    """Train `objective.model` in place (on every process) and answer its curves.

    A model that goes on from a release keeps its weights where no epoch makes them better.

    Raises a TrainingError when the loss is not a number, or when the gathered weights score differently.
    """
    settings = course.settings
    device = collective_device()
    sharded = ShardedModel(
        objective,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        table_learning_rate=settings.table_learning_rate,
        device=device,
    )
    course.log(f"{course.name}: " + ", ".join(f"{t} {where}" for t, where in sharded.describe().items()))
    state = _start(sharded, objective, course)
    progress = state.progress
    while not progress.finished:
        curve = _train_epoch(sharded, course, state)
        weights = sharded.gather()
        _prove_equal(sharded, objective, weights, course)
        figures = _share(course.validate() if weights is not None else {})
        epoch = progress.epochs_done
        optimizers = sharded.gather_optimizers()
        merit = course.merit(figures)
        if merit > progress.best_figure:
            progress.best_figure, progress.best_epoch, state.best = merit, epoch, weights
            state.sums = sums_of(optimizers)
        progress.curves.append(curve | figures)
        progress.epochs_done, progress.step, progress.loss_sum, progress.seconds = epoch + 1, 0, 0.0, 0.0
        too_long = epoch - progress.best_epoch >= settings.patience
        progress.finished = too_long or progress.epochs_done >= settings.epochs
        _save(course, state, weights, optimizers, {})
        course.log(_line(course, progress.curves[-1]))
    _spread(objective, state.best)
    return Fitted(curves=progress.curves, sums=state.sums)


@dataclass
class _State:
    """What training has come to; the tensors lie on rank 0."""

    progress: Progress
    best: Gathered = None
    """The best weights so far."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Adagrad's sums of the tables with these."""
    random: dict[str, Tensor] = field(default_factory=dict)
    """Random states to go on with in the midst of an epoch; empty elsewhere."""


def _train_epoch(sharded: ShardedModel, course: Course, state: _State) -> dict[str, Any]:
    """Train the epoch from where `state` stands in it, and tell how it went."""
    rank, world_size, progress = dist.get_rank(), dist.get_world_size(), state.progress
    epoch = progress.epochs_done
    # Drawn anew for each epoch, so that a run that goes on draws what it would have drawn.
    torch.manual_seed((course.seed * 1000 + epoch) * 1000 + rank + progress.step)
    draw = torch.Generator().manual_seed((course.seed * 1000 + epoch) * 1000 + rank + 500 + progress.step)
    take_up_random(state.random, draw)
    sharded.parallel.train()
    steps = list(
        batches(
            len(course.examples),
            course.settings.batch_size,
            seed=course.seed,
            epoch=epoch,
            rank=rank,
            world_size=world_size,
        )
    )
    if not steps:
        raise TrainingError(
            f"{len(course.examples)} training events do not fill {world_size} processes; lower num_processes"
        )
    started = saved = time.perf_counter()
    done, before, loss_sum = progress.step, progress.seconds, progress.loss_sum / world_size
    for rows in islice(steps, done, None):
        batch = course.examples.take(rows).to(collective_device())
        loss = sharded.step(*course.prepare(batch, draw))
        if not math.isfinite(loss):
            raise TrainingError(_no_number(course, loss, epoch, done, rows))
        loss_sum, done = loss_sum + loss, done + 1
        if done < len(steps) and _is_due(saved, course.checkpoint_every_s):
            progress.step, progress.seconds = done, before + time.perf_counter() - started
            progress.loss_sum = _sum(loss_sum)
            _save(course, state, sharded.gather(), sharded.gather_optimizers(), gather_random(draw))
            saved = time.perf_counter()
    seconds = before + time.perf_counter() - started
    return {
        "epoch": epoch + 1,
        "loss": _sum(loss_sum / len(steps)) / world_size,
        "seconds": seconds,
        "samples_per_s": sum(map(len, steps)) * world_size / seconds,
    }


def _no_number(course: Course, loss: float, epoch: int, done: int, rows: Tensor) -> str:
    shown = ", ".join(str(row) for row in rows[:5].tolist())
    return (
        f"the {course.name}'s loss is {loss} in epoch {epoch + 1}, step {done + 1}, on a batch that begins "
        f"with rows {shown} of its training data (0 is the oldest); the last checkpoint is kept: lower "
        f"training.{course.name}.learning_rate or table_learning_rate, or look at these rows"
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


def _save(
    course: Course, state: _State, weights: Gathered, optimizers: Gathered, random: dict[str, Tensor]
) -> None:
    """On rank 0: write what was gathered."""
    if weights is None or optimizers is None:
        return
    groups: Groups = {"weights": weights, "optimizers": optimizers, "sums": state.sums, "random": random}
    if state.best is not None:
        groups["best"] = state.best
    course.checkpoints.save(state.progress, groups)


def _prove_equal(
    sharded: ShardedModel, objective: Any, weights: dict[str, Tensor] | None, course: Course
) -> None:
    """Load the gathered weights into the plain model on rank 0, and compare its scores with the sharded."""
    draw = torch.Generator().manual_seed(course.seed)
    sharded.parallel.eval()
    with torch.no_grad():
        arguments = course.prepare(course.probe.to(collective_device()), draw)
        ours: Tensor = sharded.objective.scores(*_without_draw(arguments))  # type: ignore[operator]
        if weights is None:
            return
        objective.model.load_state_dict(weights)
        objective.eval()
        plain: Tensor = objective.scores(*_without_draw(arguments))
    difference = float((ours - plain).abs().max())
    if not difference <= MAX_GATHER_DIFFERENCE:
        raise TrainingError(
            f"the {course.name}'s gathered weights score up to {difference:.3g} off the sharded model's, "
            f"bound {MAX_GATHER_DIFFERENCE:g}; report this with the plan printed above"
        )


def _without_draw(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value for value in arguments if not isinstance(value, torch.Generator))


def _start(sharded: ShardedModel, objective: Any, course: Course) -> _State:
    """Where training begins: in a killed run's checkpoint, in a release, or from nothing."""
    number = _agreed(course.checkpoints.newest() if dist.get_rank() == 0 else None)
    if number is not None:
        progress, groups = course.checkpoints.load(number)
        sharded.load(groups["weights"])
        sharded.load_optimizers(groups["optimizers"])
        step = f" and {progress.step} steps" if progress.step else ""
        course.log(f"{course.name}: going on after epoch {progress.epochs_done}{step} of an earlier run")
        sums, random = groups.get("sums", {}), groups.get("random", {})
        return _State(progress=progress, best=groups.get("best"), sums=sums, random=random)
    progress = Progress()
    if course.sums is None:
        return _State(progress=progress)
    sharded.load_sums(course.sums)
    weights = sharded.gather()
    _prove_equal(sharded, objective, weights, course)
    figures = _share(course.validate() if weights is not None else {})
    progress.best_figure = course.merit(figures)
    course.log(f"{course.name}: going on from a release, ndcg {figures['ndcg']:.4f} before the first epoch")
    return _State(progress=progress, best=weights, sums=sums_of(sharded.gather_optimizers()))


def _agreed(number: int | None) -> int | None:
    """Rank 0's checkpoint number, on every process: it alone decides, so that none goes another way."""
    shared = torch.tensor([-1 if number is None else number], device=collective_device())
    dist.broadcast(shared, src=0)
    return None if int(shared) < 0 else int(shared)


def _share(figures: dict[str, float]) -> dict[str, float]:
    """Rank 0's figures, on every process."""
    names = ["ndcg", "auc", "rmse"]
    values = torch.tensor([figures.get(name, math.nan) for name in names], device=collective_device())
    dist.broadcast(values, src=0)
    shared = dict(zip(names, values.tolist(), strict=True))
    return {name: value for name, value in shared.items() if not math.isnan(value)}


def _spread(objective: Any, best: dict[str, Tensor] | None) -> None:
    """The best weights into the plain model of every process."""
    with torch.no_grad():
        for name, own in sorted(objective.model.state_dict().items()):
            value = (best[name] if best is not None and dist.get_rank() == 0 else own).to(collective_device())
            value = value.contiguous()
            dist.broadcast(value, src=0)
            own.copy_(value)


def _line(course: Course, curve: dict[str, Any]) -> str:
    figures = " ".join(f"{name} {curve[name]:.4f}" for name in ("ndcg", "auc", "rmse") if name in curve)
    return (
        f"{course.name}: epoch {curve['epoch']}/{course.settings.epochs} loss {curve['loss']:.4f} "
        f"{figures} ({curve['samples_per_s']:,.0f} events/s)"
    )
