"""What is trained and how far it has come: the terms that epochs, checkpoints and the loop share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from leanrec.config import RankerSettings, RetrieverSettings
from leanrec.errors import TrainingError
from leanrec.training.checkpoint import Checkpoints, Groups, Progress
from leanrec.training.examples import Examples
from leanrec.training.sharded_model import Gathered
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
    sharding: Mapping[str, str]
    """Table -> its sharding, where the planner shall not choose."""
    watch: Watch
    log: Callable[[str], None]
    sums: dict[str, Tensor] | None = None
    """Adagrad's sums to go on with, where the model's weights are a release's; None: they are fresh."""
    merit: Callable[[dict[str, float]], float] = itemgetter("ndcg")
    """Which epoch is the best: the one of whose figures this is the highest."""


@dataclass
class State:
    """What training has come to; the tensors lie on rank 0."""

    progress: Progress
    best: Gathered = None
    """The best weights so far."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Adagrad's sums of the tables with these."""
    random: dict[str, Tensor] = field(default_factory=dict)
    """Random states to go on with in the midst of an epoch; empty elsewhere."""


def refuse_no_numbers(course: Course, when: str, weights: Gathered) -> None:
    """On rank 0: raise a TrainingError where a gathered weight is no finite number, so that none is kept."""
    for name, value in (weights or {}).items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise TrainingError(
                f"the {course.name}'s weights {name} hold what is no number after {when}; "
                f"the last checkpoint is kept: lower training.{course.name}.learning_rate or "
                "table_learning_rate"
            )


def save(
    course: Course, state: State, weights: Gathered, optimizers: Gathered, random: dict[str, Tensor]
) -> None:
    """On rank 0: write a checkpoint of what was gathered."""
    if weights is None or optimizers is None:
        return
    groups: Groups = {"weights": weights, "optimizers": optimizers, "sums": state.sums, "random": random}
    if state.best is not None:
        groups["best"] = state.best
    course.checkpoints.save(state.progress, groups)
