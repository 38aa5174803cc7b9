"""Epochs of one model: train, gather, prove the scores equal, validate, keep the best, checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from leanrec.errors import TrainingError
from leanrec.training.batches import measured_speeds, parts_by_speed
from leanrec.training.checkpoint import Progress
from leanrec.training.course import Course, State, is_finished, refuse_no_numbers, save, take_up
from leanrec.training.epoch import train_epoch
from leanrec.training.exchange import as_exchanged
from leanrec.training.sharded_model import ShardedModel, fill
from leanrec.training.sparse import PIECE, collective_device, in_full

MAX_GATHER_DIFFERENCE = 1e-5
"""Bound on |score of the sharded model - score of the plain one|."""
PROBE_EVENTS = 256


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What training left besides the weights in the model."""

    curves: list[dict[str, Any]]
    sums: dict[str, Tensor]
    """On rank 0: Adagrad's sums of the tables at the best epoch."""


def fit(objective: Any, course: Course) -> Fitted:
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
        optimizer=settings.optimizer,
        layout=course.layout,
        device=device,
        replicas=course.replicas,
    )
    course.log(f"{course.name}: " + ", ".join(f"{t} {where}" for t, where in sharded.describe().items()))
    state = _start(sharded, objective, course)
    progress = state.progress
    while not progress.finished:
        if progress.step == 0 or len(progress.speeds) != dist.get_world_size():
            progress.speeds = _speeds(objective, course)
        curve = train_epoch(sharded, course, state)
        epoch = progress.epochs_done
        refuse_no_numbers(course, f"epoch {epoch + 1}", sharded)
        figures = _figures(sharded, objective, course)
        merit = course.merit(figures)
        if merit > progress.best_figure:
            progress.best_figure, progress.best_epoch = merit, epoch
            state.keep_as_best(sharded)
        progress.curves.append(curve | figures)
        progress.epochs_done, progress.step, progress.loss_sum, progress.seconds = epoch + 1, 0, 0.0, 0.0
        progress.finished = is_finished(progress, settings)
        save(course, state, sharded, {})
        course.watch.close_epoch(progress.curves[-1])
        course.log(_line(course, progress.curves[-1]))
    fill(objective.model, state.best)
    _broadcast(objective.model)
    return Fitted(curves=progress.curves, sums=in_full(state.best_sums))


def _speeds(objective: Any, course: Course) -> list[float]:
    """Of each process, by what the plain model takes for a share of a batch; none where all take as much."""
    if course.balance == "equal":
        return []
    size = max(1, course.settings.batch_size // dist.get_world_size())
    rows = torch.arange(size) % len(course.probe)

    @torch.no_grad()
    def probe() -> None:
        batch = course.probe.take(rows).to(collective_device())
        objective.scores(*_without_draw(course.prepare(batch, torch.Generator().manual_seed(course.seed))))

    objective.eval()
    speeds = measured_speeds(probe)
    parts = parts_by_speed(1000, speeds)
    course.log(f"{course.name}: of 1,000 events processes 0 to {len(parts) - 1} take {parts}, by their speed")
    return speeds


def _figures(sharded: ShardedModel, objective: Any, course: Course) -> dict[str, float]:
    """What rank 0 measures of the plain model with the weights of now, on every process."""
    sharded.gather(objective.model)
    _prove_equal(sharded, objective, course)
    return _share(course.validate() if dist.get_rank() == 0 else {})


def _prove_equal(sharded: ShardedModel, objective: Any, course: Course) -> None:
    """Compare, on rank 0, the scores of the plain model with those of the sharded one.

    Where vectors travel in fewer bits, the plain model's are rounded alike.
    """
    draw = torch.Generator().manual_seed(course.seed)
    sharded.parallel.eval()
    with torch.no_grad():
        arguments = course.prepare(course.probe.to(collective_device()), draw)
        ours: Tensor = sharded.objective.scores(*_without_draw(arguments))  # type: ignore[operator]
        if dist.get_rank() != 0:
            return
        objective.eval()
        sends = course.replicas.group_size > 1  # one process of a group sends nothing
        exchange = course.layout.exchange if sends else "fp32"
        with as_exchanged(objective.model.sparse, exchange, whole=sharded.whole_tables):
            plain: Tensor = objective.scores(*_without_draw(arguments))
    difference = float((ours - plain).abs().max())
    if not difference <= MAX_GATHER_DIFFERENCE:
        raise TrainingError(
            f"the {course.name}'s gathered weights score up to {difference:.3g} off the sharded model's, "
            f"bound {MAX_GATHER_DIFFERENCE:g}; report this with the plan printed above"
        )


def _without_draw(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value for value in arguments if not isinstance(value, torch.Generator))


def _start(sharded: ShardedModel, objective: Any, course: Course) -> State:
    """Where training begins: in a killed run's checkpoint, in a release, or from nothing."""
    number = _agreed(course.checkpoints.newest() if dist.get_rank() == 0 else None)
    if number is not None:
        state = take_up(course, number, sharded)
        progress = state.progress
        progress.finished = is_finished(progress, course.settings)  # it may have been made at another pace
        step = f" and {progress.step} steps" if progress.step else ""
        course.log(f"{course.name}: going on after epoch {progress.epochs_done}{step} of an earlier run")
        return state
    state = State(Progress())
    if course.sums is not None:
        sharded.load_sums(course.sums)
        figures = _figures(sharded, objective, course)
        state.progress.best_figure = course.merit(figures)
        state.keep_as_best(sharded)
        before = f"ndcg {figures['ndcg']:.4f} before the first epoch"
        course.log(f"{course.name}: going on from a release, {before}")
    return state


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


def _broadcast(model: nn.Module) -> None:
    """Rank 0's weights into every process's plain model."""
    with torch.no_grad():
        for _, own in sorted(model.state_dict().items()):
            for piece in own.view(-1).split(PIECE) if own.is_contiguous() else [own]:
                value = piece.to(collective_device()).contiguous()
                dist.broadcast(value, src=0)
                piece.copy_(value)


def _line(course: Course, curve: dict[str, Any]) -> str:
    figures = " ".join(f"{name} {curve[name]:.4f}" for name in ("ndcg", "auc", "rmse") if name in curve)
    whole = sum(curve["phases"].values()) or 1.0  # where no step was left
    phases = ", ".join(f"{name} {seconds / whole:.0%}" for name, seconds in curve["phases"].items())
    return (
        f"{course.name}: epoch {curve['epoch']}/{course.settings.epochs} loss {curve['loss']:.4f} "
        f"{figures} ({curve['samples_per_s']:,.0f} events/s; {phases})"
    )
