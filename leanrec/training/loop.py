"""Epochs of one model: train, gather, prove the scores equal, validate, keep the best, checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from leanrec.config import RankerSettings, RetrieverSettings
from leanrec.errors import TrainingError
from leanrec.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from leanrec.training.examples import Examples, batches
from leanrec.training.plan import ShardedModel, sums_of
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
    checkpoint: Path
    identity: str
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
    progress, best, sums = _start(sharded, objective, course)
    while not progress.finished:
        curve = _train_epoch(sharded, course, progress.epochs_done)
        weights = sharded.gather()
        _prove_equal(sharded, objective, weights, course)
        figures = _share(course.validate() if weights is not None else {})
        epoch = progress.epochs_done
        state = sharded.gather_optimizers()
        merit = course.merit(figures)
        if merit > progress.best_figure:
            progress.best_figure, progress.best_epoch, best = merit, epoch, weights
            sums = sums_of(state)
        progress.curves.append(curve | figures)
        progress.epochs_done = epoch + 1
        too_long = epoch - progress.best_epoch >= settings.patience
        progress.finished = too_long or progress.epochs_done >= settings.epochs
        if weights is not None and state is not None and best is not None:
            groups = {"weights": weights, "optimizers": state, "best": best, "sums": sums}
            save_checkpoint(course.checkpoint, progress, groups)
        course.log(_line(course, progress.curves[-1]))
    _spread(objective, best)
    return Fitted(curves=progress.curves, sums=sums)


def _train_epoch(sharded: ShardedModel, course: Course, epoch: int) -> dict[str, Any]:
    rank, world_size = dist.get_rank(), dist.get_world_size()
    # Drawn anew for each epoch, so that a run that goes on draws what it would have drawn.
    torch.manual_seed((course.seed * 1000 + epoch) * 1000 + rank)
    draw = torch.Generator().manual_seed((course.seed * 1000 + epoch) * 1000 + rank + 500)
    sharded.parallel.train()
    started = time.perf_counter()
    total, steps, seen = 0.0, 0, 0
    for rows in batches(
        len(course.examples),
        course.settings.batch_size,
        seed=course.seed,
        epoch=epoch,
        rank=rank,
        world_size=world_size,
    ):
        batch = course.examples.take(rows).to(collective_device())
        loss = sharded.step(*course.prepare(batch, draw))
        if not math.isfinite(loss):
            raise TrainingError(
                f"the {course.name}'s loss is {loss} in epoch {epoch + 1}, step {steps + 1}; "
                f"lower training.{course.name}.learning_rate or table_learning_rate"
            )
        total, steps, seen = total + loss, steps + 1, seen + len(batch.item_index) * world_size
    if steps == 0:
        raise TrainingError(
            f"{len(course.examples)} training events do not fill {world_size} processes; lower num_processes"
        )
    seconds = time.perf_counter() - started
    mean = torch.tensor([total / steps], device=collective_device())
    dist.all_reduce(mean)
    return {
        "epoch": epoch + 1,
        "loss": float(mean) / world_size,
        "seconds": seconds,
        "samples_per_s": seen / seconds,
    }


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


def _start(
    sharded: ShardedModel, objective: Any, course: Course
) -> tuple[Progress, dict[str, Tensor] | None, dict[str, Tensor]]:
    """Where training begins: in a killed run's checkpoint, in a release, or from nothing.

    Progress, and the weights and Adagrad's sums that are the best so far.
    """
    found = load_checkpoint(course.checkpoint, course.identity)
    if found is not None:
        progress, groups = found
        sharded.load(groups["weights"])
        sharded.load_optimizers(groups["optimizers"])
        course.log(f"{course.name}: going on after epoch {progress.epochs_done} of an earlier run")
        return progress, groups["best"], groups.get("sums", {})
    progress = Progress(identity=course.identity)
    if course.sums is None:
        return progress, None, {}
    sharded.load_sums(course.sums)
    weights = sharded.gather()
    _prove_equal(sharded, objective, weights, course)
    figures = _share(course.validate() if weights is not None else {})
    progress.best_figure = course.merit(figures)
    course.log(f"{course.name}: going on from a release, ndcg {figures['ndcg']:.4f} before the first epoch")
    return progress, weights, sums_of(sharded.gather_optimizers())


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
