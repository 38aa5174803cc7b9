"""Fine-tuning, common to the methods that change a model: one process, the training's own losses.

The retriever learns first, then the ranker on what that retriever puts forward, as in training. With a
teacher each loss is a blend: (1 - w) * what happened + w * what the teacher says (Hinton et al. 2015,
arXiv:1503.02531). All draws come from the training's seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from leanrec.compression.architecture import retriever_as
from leanrec.compression.distillation import DistilledRankerObjective, DistilledRetrieverObjective, Teacher
from leanrec.compression.source import CompressionSource
from leanrec.config import RankerSettings, RetrieverSettings
from leanrec.config.methods import FineTuningSettings
from leanrec.errors import CompressionError
from leanrec.models.recommender import Recommender
from leanrec.models.retrieval.retriever import LearnedRetriever
from leanrec.training.batches import batches
from leanrec.training.candidates import CandidateSampler
from leanrec.training.examples import Examples, interactions_of, popularity_of
from leanrec.training.fitting import temperature_of
from leanrec.training.objectives import RankerObjective, RetrieverObjective

AfterStep = Callable[[str, float], None]
"""Called after each step with `RETRIEVER` or `RANKER` and its share of steps done, 0..1."""

RETRIEVER, RANKER = "retriever", "ranker"
TABLES = "sparse.tables."
PROBE_EVENTS = 256
"""Events that tell from where a ranker starts anew."""


def fine_tune(
    recommender: Recommender,
    source: CompressionSource,
    settings: FineTuningSettings,
    *,
    teacher: Teacher | None = None,
    after_step: AfterStep | None = None,
    from_scratch: bool = False,
) -> Recommender:
    """Train `recommender` in place on the train split, answers it with its items frozen.

    Args:
        recommender: any form of the model; its tables may be shared, hashed, narrowed.
        source: the events, and the trained model, which teaches where no `teacher` is given.
        settings: epochs, learning rate and the teacher's weight.
        teacher: who teaches; by default the trained model of `source`.
        after_step: called after each optimizer step.
        from_scratch: the ranker begins anew, so P(watch) starts from the new retriever's softmax.

    Raises a CompressionError when the loss is not a number.
    """
    if settings.retriever_epochs == settings.ranker_epochs == 0:
        return recommender.freeze_items().eval()
    recommender.requires_grad_(True)
    recommender.frozen = False
    if settings.teacher_weight == 0:
        teacher = None
    elif teacher is None:
        teacher = Teacher([source.recommender])
    course = _Course(source.examples, recommender.settings.seed, settings, after_step)
    _tune_retriever(recommender, course, teacher)
    _tune_ranker(recommender, course, teacher, from_scratch)
    return recommender.freeze_items().eval()


@dataclass(frozen=True)
class _Course:
    """What both models' fine-tuning have in common."""

    examples: Examples
    seed: int
    settings: FineTuningSettings
    after_step: AfterStep | None

    def batches(self, epochs: int, size: int) -> Iterator[Tensor]:
        """The rows of every batch of every epoch."""
        for epoch in range(epochs):
            yield from batches(len(self.examples), size, seed=self.seed + 7, epoch=epoch)


def _tune_retriever(recommender: Recommender, course: _Course, teacher: Teacher | None) -> None:
    retriever = retriever_as(LearnedRetriever, recommender, "fine-tuning")
    training = recommender.settings.retriever
    retriever.connect(interactions_of(course.examples, retriever.spec, training.disliked_weight))
    own = RetrieverObjective(retriever, training, popularity_of(course.examples, retriever.spec.num_items))
    objective: nn.Module = own
    if teacher is not None:
        weights = course.settings.teacher_weight, course.settings.list_weight
        objective = DistilledRetrieverObjective(own, teacher, *weights)
    _learn(RETRIEVER, objective, recommender, course, lambda batch, draw: (batch, draw))


def _tune_ranker(
    recommender: Recommender, course: _Course, teacher: Teacher | None, from_scratch: bool
) -> None:
    training = recommender.settings
    sampler = CandidateSampler(recommender.retriever, training.ranker, recommender.num_candidates)
    if from_scratch:
        probe = course.examples.take(torch.arange(min(PROBE_EVENTS, len(course.examples))))
        temperature = temperature_of(recommender.retriever, training.retriever, probe)
        recommender.ranker.start_from_retrieval(sampler.log_partition(probe, temperature), temperature)
    own = RankerObjective(recommender.ranker, training.ranker)
    objective: nn.Module = own
    if teacher is not None:
        weights = course.settings.teacher_weight, course.settings.feature_weight
        objective = DistilledRankerObjective(own, teacher, *weights)
    _learn(RANKER, objective, recommender, course, lambda batch, draw: (batch, sampler.draw(batch, draw)))


def _learn(
    part: str,
    objective: nn.Module,
    recommender: Recommender,
    course: _Course,
    prepare: Callable[[Examples, torch.Generator], tuple[Any, ...]],
) -> None:
    """Adam for the dense part, Adagrad for the tables, as in training; both rates fall to zero linearly."""
    settings = getattr(recommender.settings, part)
    epochs = getattr(course.settings, f"{part}_epochs")
    torch.manual_seed(course.seed)
    draw = torch.Generator().manual_seed(course.seed)
    optimizers = _optimizers(
        objective, recommender.retriever if part == RETRIEVER else recommender.ranker, settings
    )
    first = [optimizer.param_groups[0]["lr"] * course.settings.rate for optimizer in optimizers]
    steps = epochs * math.ceil(len(course.examples) / settings.batch_size)
    objective.train()
    for step, rows in enumerate(course.batches(epochs, settings.batch_size)):
        for optimizer, rate in zip(optimizers, first, strict=True):
            optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
            optimizer.zero_grad()
        loss = objective(*prepare(course.examples.take(rows), draw))
        if not bool(torch.isfinite(loss)):
            raise CompressionError(
                f"fine-tuning: the loss is {float(loss)} in step {step + 1} of {steps}; lower the "
                "method's rate"
            )
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        if course.after_step is not None:
            course.after_step(part, (step + 1) / steps)
    objective.eval()


def _optimizers(
    objective: nn.Module, model: nn.Module, settings: RetrieverSettings | RankerSettings
) -> list[torch.optim.Optimizer]:
    """One for what only `objective` or the dense part of `model` holds, one for the tables."""
    tables = [p for name, p in model.named_parameters() if name.startswith(TABLES) and p.requires_grad]
    taken = {id(p) for p in tables}
    dense = [p for p in objective.parameters() if id(p) not in taken and p.requires_grad]
    return [
        torch.optim.AdamW(dense, lr=settings.learning_rate, weight_decay=settings.weight_decay),
        torch.optim.Adagrad(tables, lr=settings.table_learning_rate, eps=1e-8),
    ]
