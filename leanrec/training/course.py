"""What is trained and how far it has come: the terms that epochs, checkpoints and the loop share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor

from leanrec.config import RankerSettings, RetrieverSettings
from leanrec.errors import TrainingError
from leanrec.training.checkpoint import Checkpoints, Progress
from leanrec.training.examples import Examples
from leanrec.training.layout import Layout
from leanrec.training.replicas import Replicas
from leanrec.training.sharded_model import ShardedModel
from leanrec.training.sparse import Held, copied, parts_of
from leanrec.training.watching import Watch

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
    layout: Layout
    """How its tables lie over the processes and in their memory."""
    replicas: Replicas
    """The groups of processes that each have all tables."""
    sync_every: int
    """Steps after which the tables of these are averaged."""
    balance: str
    """How batches are shared out over the processes: "equal" or "measured"."""
    prefetch: bool
    """Whether the next batch is made while the present one is learnt from."""
    to_go_on: str
    """What to do, at a lower rate, with the last checkpoint."""
    watch: Watch
    log: Callable[[str], None]
    sums: dict[str, Tensor] | None = None
    """Adagrad's sums to go on with, where the model's weights are a release's; None: they are fresh."""
    merit: Callable[[dict[str, float]], float] = itemgetter("ndcg")
    """Which epoch is the best: the one of whose figures this is the highest."""


@dataclass
class State:
    """What training has come to."""

    progress: Progress
    best: Held = field(default_factory=dict)
    """The best weights so far, in the host's memory."""
    best_sums: Held = field(default_factory=dict)
    """Adagrad's sums of the tables with these."""
    random: dict[str, Tensor] = field(default_factory=dict)
    """Random states to go on with in the midst of an epoch; empty elsewhere."""

    def keep_as_best(self, sharded: ShardedModel) -> None:
        """Copy the weights and sums of now."""
        self.best, self.best_sums = copied(sharded.weights()), copied(sharded.sums())


def refuse_no_numbers(course: Course, when: str, sharded: ShardedModel) -> None:
    """Raise a TrainingError where a weight of this process is no finite number, so that none is kept."""
    for name, value in sharded.weights().items():
        parts = [part for _, part in parts_of(value)] if isinstance(value, ShardedTensor) else [value]
        if not all(map(_is_within, parts)):
            beyond = "" if value.dtype != torch.half else ", or one beyond half precision,"
            raise TrainingError(
                f"the {course.name}'s weights {name} hold what is no number{beyond} after {when}; "
                f"the last checkpoint is kept: lower training.{course.name}.learning_rate or "
                f"table_learning_rate and {course.to_go_on}"
            )


def _is_within(part: Tensor) -> bool:
    """Whether all are numbers, and none at the end of those there are, where a GPU's rounding stops.

    Nothing of its size is made for it.
    """
    if not part.numel() or not part.is_floating_point():
        return True
    return bool((torch.stack(part.aminmax()).abs() < torch.finfo(part.dtype).max).all())


def is_finished(progress: Progress, settings: RetrieverSettings | RankerSettings) -> bool:
    """Whether all epochs are done, or patience is out."""
    since_best = progress.epochs_done - 1 - progress.best_epoch
    return since_best >= settings.patience or progress.epochs_done >= settings.epochs


def save(course: Course, state: State, sharded: ShardedModel, random: dict[str, Tensor]) -> None:
    """Write a checkpoint; every process must call it."""
    held = _of_now(sharded) | _named("best", state.best) | _named("best_sums", state.best_sums)
    course.checkpoints.save(state.progress, held | _named("random", random))


def take_up(course: Course, number: int, sharded: ShardedModel) -> State:
    """Go on from the checkpoint `number`; every process must call it."""
    best, best_sums = copied(sharded.weights()), copied(sharded.sums())
    into = _of_now(sharded) | _named("best", best) | _named("best_sums", best_sums)
    progress, held = course.checkpoints.load(number, into)
    sharded.load_sums(_group("sums", held))
    sharded.spread_first_replica()
    sharded.load_dense_state(_group("dense", held))
    return State(progress, _group("best", held), _group("best_sums", held), _group("random", held))


def _of_now(sharded: ShardedModel) -> Held:
    weights, sums = _named("weights", sharded.weights()), _named("sums", sharded.sums())
    return weights | sums | _named("dense", sharded.dense_state())


def _named(group: str, held: Held) -> Held:
    return {f"{group}/{name}": value for name, value in held.items()}


def _group(group: str, held: Held) -> Held:
    return {name.removeprefix(f"{group}/"): v for name, v in held.items() if name.startswith(f"{group}/")}
