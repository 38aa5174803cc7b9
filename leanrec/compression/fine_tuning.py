"""Fine-tuning, common to the methods that change a model: one process, the training's own losses.

The retriever learns first, then the ranker on what that retriever puts forward, as in training. With a
teacher each loss is a blend: (1 - w) * what happened + w * what the teacher says (Hinton et al. 2015,
arXiv:1503.02531). All draws come from the training's seed, so the same model and events give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from leanrec.compression.distillation import DistilledRankerObjective, DistilledRetrieverObjective, Teacher
from leanrec.compression.source import CompressionSource
from leanrec.config import RankerSettings, RetrieverSettings
from leanrec.config.methods import FineTuningSettings
from leanrec.errors import CompressionError
from leanrec.models.recommender import Recommender
from leanrec.training.candidates import CandidateSampler
from leanrec.training.examples import Examples, batches
from leanrec.training.objectives import RankerObjective, RetrieverObjective

AfterStep = Callable[[str, float], None]
"""Called after each step with "retriever" or "ranker" and its share of steps done, 0..1."""

TABLES = "sparse.tables."


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
        recommender: any form of the model; its tables may be factorized, hashed, narrowed.
        source: the events, and the trained model, which teaches where no `teacher` is given.
        settings: epochs, learning rate and the teacher's weight.
        teacher: who teaches; by default the trained model of `source`.
        after_step: called after each optimizer step.
        from_scratch: the ranker begins anew, so P(watch) starts from the new retriever's softmax.

    Raises a CompressionError when the loss is not a number.
    """
    if settings.retriever_epochs == settings.ranker_epochs == 0:
        return recommender.freeze_items().eval()
    training = recommender.settings
    recommender.requires_grad_(True)
    recommender.frozen = False
    weight = settings.teacher_weight
    if weight > 0 and teacher is None:
        teacher = Teacher([source.recommender])
    with _reproducible():
        own = RetrieverObjective(recommender.retriever, training.retriever)
        retriever: nn.Module = own
        if teacher is not None and weight > 0:
            retriever = DistilledRetrieverObjective(own, teacher, weight, settings.list_weight)
        _learn(
            "retriever",
            retriever,
            recommender.retriever,
            _Course(source.examples, training.seed, settings.rate, settings.retriever_epochs, after_step),
            training.retriever,
            lambda batch, draw: (batch, draw),
        )
        sampler = CandidateSampler(recommender.retriever, training.ranker, recommender.num_candidates)
        if from_scratch:
            probe = source.examples.take(torch.arange(min(PROBE_EVENTS, len(source.examples))))
            temperature = training.retriever.temperature
            recommender.dcn.start_from_retrieval(sampler.log_partition(probe, temperature), temperature)
        ranks = RankerObjective(recommender.dcn, training.ranker)
        ranker: nn.Module = ranks
        if teacher is not None and weight > 0:
            ranker = DistilledRankerObjective(ranks, teacher, weight, settings.feature_weight)
        _learn(
            "ranker",
            ranker,
            recommender.dcn,
            _Course(source.examples, training.seed, settings.rate, settings.ranker_epochs, after_step),
            training.ranker,
            lambda batch, draw: (batch, sampler.draw(batch, draw)),
        )
    return recommender.freeze_items().eval()


PROBE_EVENTS = 256


@contextmanager
def _reproducible() -> Iterator[None]:
    """Leave torch's random state as it was, and let sums run in one order.

    One thread: with several, the library that multiplies splits long sums as the machine's load allows.
    """
    before, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.set_num_threads(threads)


class _Course:
    """What both models' fine-tuning have in common."""

    def __init__(
        self, examples: Examples, seed: int, rate: float, epochs: int, after_step: AfterStep | None
    ) -> None:
        self.examples, self.seed, self.rate, self.epochs = examples, seed, rate, epochs
        self.after_step = after_step or (lambda part, done: None)

    def batches(self, size: int) -> Iterator[Tensor]:
        """The rows of every batch of every epoch."""
        for epoch in range(self.epochs):
            yield from batches(
                len(self.examples), size, seed=self.seed + 7, epoch=epoch, rank=0, world_size=1
            )


def _learn(
    name: str,
    objective: nn.Module,
    model: nn.Module,
    course: _Course,
    settings: RetrieverSettings | RankerSettings,
    prepare: Callable[[Examples, torch.Generator], tuple[Any, ...]],
) -> None:
    """Adam for the dense part, Adagrad for the tables, as in training; both rates fall to zero linearly."""
    torch.manual_seed(course.seed)
    draw = torch.Generator().manual_seed(course.seed)
    tables = [p for name, p in model.named_parameters() if name.startswith(TABLES) and p.requires_grad]
    taken = {id(p) for p in tables}
    dense = [p for p in objective.parameters() if id(p) not in taken and p.requires_grad]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(dense, lr=settings.learning_rate, weight_decay=settings.weight_decay),
        torch.optim.Adagrad(tables, lr=settings.table_learning_rate, eps=1e-8),
    ]
    first = [group["lr"] * course.rate for optimizer in optimizers for group in optimizer.param_groups]
    steps = course.epochs * math.ceil(len(course.examples) / settings.batch_size)
    objective.train()
    for step, rows in enumerate(course.batches(settings.batch_size)):
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
        course.after_step(name, (step + 1) / steps)
    objective.eval()
