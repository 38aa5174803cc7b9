"""What matters in a model: how often each row is looked up, and how much the loss depends on each weight."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from leanrec.compression.architecture import retriever_as
from leanrec.compression.source import CompressionSource
from leanrec.config.fit import RANKER, RETRIEVER
from leanrec.models.forms.heads import AttentionForm
from leanrec.models.recommender import Recommender
from leanrec.models.retrieval.retriever import LearnedRetriever
from leanrec.training.candidates import CandidateSampler
from leanrec.training.examples import Examples, popularity_of
from leanrec.training.objectives import RankerObjective, RetrieverObjective

EVENTS, BATCH = 8192, 1024


def row_counts(source: CompressionSource) -> dict[str, Tensor]:
    """Table name -> how often the train split looks up each of its rows, [rows] float32; unknown counts 0."""
    spec, examples = source.recommender.spec, source.examples
    indices = {
        "user": (examples.user.user_index, spec.num_users),
        "item": (examples.item_index, spec.num_items),
        "history": (examples.user.history, spec.num_items),
        "category": (
            source.recommender.retriever.category_indices[examples.item_index],
            spec.num_categories,
        ),
    }
    for place, rows in enumerate(spec.attribute_cardinalities.values()):
        indices[f"attribute_{place}"] = (examples.user.user_attributes[:, place], rows)
    counts = {name: torch.bincount(i.reshape(-1), minlength=rows) for name, (i, rows) in indices.items()}
    for count in counts.values():
        count[0] = 0
    return {name: count.float() for name, count in counts.items()}


def taylor_importance(recommender: Recommender, source: CompressionSource) -> dict[str, Tensor]:
    """Weight of the ranker -> |weight * gradient of the loss|, summed over batches of training events."""
    total = {name: torch.zeros_like(value) for name, value in recommender.ranker.named_parameters()}
    for loss in _ranker_losses(recommender, source):
        recommender.ranker.zero_grad()
        loss.backward()
        for name, value in recommender.ranker.named_parameters():
            if value.grad is not None:
                total[name] += (value * value.grad).abs().detach()
    recommender.ranker.zero_grad()
    return total


def head_importance(part: str, recommender: Recommender, source: CompressionSource) -> dict[str, Tensor]:
    """Path of each attention of `part` -> how much the loss depends on a gate on each of its heads, [heads].

    |output of the head . gradient of the loss by it| of an event, summed over training events: to first order
    what the gate changes when it closes (Michel et al. 2019, arXiv:1905.10650, equation 2). The attention of
    `recommender` must have the forms of leanrec/models/forms/heads.py, with any number of heads.
    """
    attention = {
        path: module
        for path, module in recommender.eval().named_modules()
        if isinstance(module, AttentionForm) and path.startswith(f"{part}.")
    }
    total = {path: torch.zeros(module.heads) for path, module in attention.items()}
    with ExitStack() as watched:
        outputs = {path: watched.enter_context(_inputs(module.out)) for path, module in attention.items()}
        for loss in _LOSSES[part](recommender, source):
            loss.backward()
            for path, module in attention.items():
                gates = [_gradient_of_gates(output, module.heads) for output in outputs[path]]
                total[path] += torch.stack(gates).sum(dim=0).abs().sum(dim=0)
                outputs[path].clear()
    return total


@contextmanager
def _inputs(layer: nn.Linear) -> Iterator[list[Tensor]]:
    """A list that takes up what enters `layer`, each time that it answers; their gradients are kept."""
    seen: list[Tensor] = []

    def take_up(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        given[0].retain_grad()
        seen.append(given[0])

    hook = layer.register_forward_pre_hook(take_up)
    try:
        yield seen
    finally:
        hook.remove()


@torch.no_grad()
def _gradient_of_gates(output: Tensor, heads: int) -> Tensor:
    """Of the outputs of all heads [B, T, heads * w], one gate a user and head: [B, heads]."""
    assert output.grad is not None
    return (output * output.grad).unflatten(2, (heads, -1)).sum(dim=(1, 3))


def _retriever_losses(recommender: Recommender, source: CompressionSource) -> Iterator[Tensor]:
    """The retriever's loss on each batch of training events, as in training but without dropout."""
    training = recommender.settings
    retriever = retriever_as(LearnedRetriever, recommender, "pruning").requires_grad_(True)
    popularity = popularity_of(source.examples, recommender.spec.num_items)
    objective = RetrieverObjective(retriever, training.retriever, popularity)
    draw = torch.Generator().manual_seed(training.seed)
    for batch in _batches(source):
        yield objective(batch, draw)


def _ranker_losses(recommender: Recommender, source: CompressionSource) -> Iterator[Tensor]:
    """The ranker's loss on each batch of training events, as in training but without dropout."""
    training = recommender.settings
    sampler = CandidateSampler(recommender.retriever, training.ranker, recommender.num_candidates)
    objective = RankerObjective(recommender.ranker.requires_grad_(True), training.ranker)
    draw = torch.Generator().manual_seed(training.seed)
    for batch in _batches(source):
        yield objective(batch, sampler.draw(batch, draw))


_LOSSES = {RETRIEVER: _retriever_losses, RANKER: _ranker_losses}


def _batches(source: CompressionSource) -> Iterator[Examples]:
    examples = source.sample(EVENTS)
    for rows in torch.arange(len(examples)).split(BATCH):
        yield examples.take(rows)
