"""What matters in a model: how often each row is looked up, and how much the loss depends on each weight."""

from __future__ import annotations

import torch
from torch import Tensor

from leanrec.compression.source import CompressionSource
from leanrec.models.recommender import Recommender
from leanrec.training.candidates import CandidateSampler
from leanrec.training.objectives import RankerObjective

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
    training = recommender.settings
    sampler = CandidateSampler(recommender.retriever, training.ranker, recommender.num_candidates)
    objective = RankerObjective(recommender.ranker.requires_grad_(True), training.ranker)
    draw = torch.Generator().manual_seed(training.seed)
    total = {name: torch.zeros_like(value) for name, value in recommender.ranker.named_parameters()}
    examples = source.sample(EVENTS)
    for rows in torch.arange(len(examples)).split(BATCH):
        batch = examples.take(rows)
        recommender.ranker.zero_grad()
        objective(batch, sampler.draw(batch, draw)).backward()
        for name, value in recommender.ranker.named_parameters():
            if value.grad is not None:
                total[name] += (value * value.grad).abs().detach()
    recommender.ranker.zero_grad()
    return total
