"""What each model is trained to do: a loss on a batch, as a module that DistributedModelParallel can wrap.

E events of a batch (this process's share) · N items · C candidates an event · D retriever width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from leanrec.config import RankerSettings, RetrieverSettings
from leanrec.models.ranking.ranking_model import RankingModel
from leanrec.models.ranking.tasks import Heads
from leanrec.models.recommender import MASKED
from leanrec.models.retrieval.retriever import LearnedRetriever
from leanrec.models.retrieval.sequence_retriever import SequenceRetriever
from leanrec.training.candidates import Candidates
from leanrec.training.examples import Examples, popularity_of
from leanrec.training.losses import pairwise_loss, softmax_loss
from leanrec.training.negatives import Negatives, NegativeSampler, hardest, mask_known
from leanrec.training.sequences import Sequences, sequences_of


class RetrieverObjective(nn.Module):
    """The item that the user took up against items not yet seen, by `settings.loss` and `settings.negatives`.

    Events that were not liked count with weight `disliked_weight`. E events, M negatives, N items.
    """

    def __init__(
        self, model: LearnedRetriever, settings: RetrieverSettings, popularity: Tensor | None = None
    ) -> None:
        """`popularity` [N]: training events of each item; only negatives drawn by it need it."""
        super().__init__()
        self.model = model
        self.settings = settings
        self.sampler = NegativeSampler(settings, model.spec.num_items, popularity)
        self.corrected = settings.loss == "softmax" and settings.negatives != "hard"
        self.pairwise = pairwise_loss(settings, model.spec.num_items - 1)
        self.weights: tuple[float, ...] = (1.0,)
        """What the loss counts beside those of other processes, by `divisors` (batches.py)."""

    def divisors(self, batch: Any) -> list[float]:
        """What the sum over the events of a batch is divided by."""
        return [float(self._event_weight(batch).sum())]

    def forward(self, batch: Any, draw: torch.Generator) -> Tensor:
        """The loss of a batch (E events), a scalar."""
        negatives = self.negatives(batch, draw)
        return self.loss(self.logits(batch, negatives), batch, negatives)

    def negatives(self, batch: Any, draw: torch.Generator) -> Negatives:
        """What the items taken up are held against: the whole catalogue, or a sample of it."""
        return self.sampler.draw(batch.item_index, draw)

    def logits(self, batch: Any, negatives: Negatives) -> Tensor:
        """Scores over the temperature [E, 1 + M]: the item taken up, then `negatives`; seen ones MASKED."""
        count = len(negatives.item_index)
        users, items = self.vectors(batch, torch.cat([negatives.item_index, batch.item_index]))
        taken_up = (users * items[count:]).sum(dim=1, keepdim=True) / self.settings.temperature
        others = users @ items[:count].T / self.settings.temperature
        if self.corrected:
            others = others + negatives.correction
        known = torch.cat([batch.seen, batch.item_index.unsqueeze(1)], dim=1)
        return torch.cat([taken_up, mask_known(others, negatives.item_index, known, MASKED)], dim=1)

    def loss(self, logits: Tensor, batch: Any, negatives: Negatives) -> Tensor:
        """The loss of `logits` of E events, a scalar."""
        taken_up, others, share = logits[:, 0], logits[:, 1:], negatives.share
        if self.settings.negatives == "hard":
            others, share = hardest(others, self.settings.num_negatives)
        if self.settings.loss == "softmax":
            loss = softmax_loss(taken_up, others)
        else:
            loss = self.pairwise(taken_up, others, share)
        weight = self._event_weight(batch)
        return self.weights[0] * (loss * weight).sum() / weight.sum().clamp(min=1e-6)

    def _event_weight(self, batch: Any) -> Tensor:
        return event_weight(batch.liked, self.settings.disliked_weight)

    def vectors(self, batch: Any, item_index: Tensor) -> tuple[Tensor, Tensor]:
        """User vectors [E, D] and item vectors [M, D] from one lookup."""
        model = self.model
        looked_up = model.sparse({**model.user_indices(batch.user), **model.item_indices(item_index)})
        return model.towers(batch.user, item_index, looked_up)

    def scores(self, batch: Examples) -> Tensor:
        """Retrieval scores of E events, [E]: what must not change when the weights are gathered."""
        users, items = RetrieverObjective.vectors(self, batch, batch.item_index)
        return (users * items).sum(dim=1)


class SequenceObjective(RetrieverObjective):
    """The same for all events of a sequence at once: one causal pass gives the user vector at each position.

    Batches are `Sequences` (leanrec/training/sequences.py) and not events, so an epoch costs about a pass a
    user. Where a user has no more events than the history holds, the loss is that of the events one by one.
    The trainers take it as they take `RetrieverObjective`:

        >>> objective = SequenceObjective(model, settings)              # model: a SequenceRetriever
        >>> sequences = sequences_of(examples)                          # len(): number of sequences
        >>> loss = objective(sequences.take(torch.arange(32)), torch.Generator())
        >>> objective.scores(examples)                                  # event by event, as it is served
    """

    model: SequenceRetriever

    def vectors(self, batch: Any, item_index: Tensor) -> tuple[Tensor, Tensor]:
        """User vectors [E, D] at the events of a batch of `Sequences`, and item vectors [M, D]."""
        model = self.model
        looked_up = model.sparse({**model.user_indices(batch.user), **model.item_indices(item_index)})
        states = model.user_states(batch.user, looked_up)
        return states[batch.sequence, batch.position], model.item_tower(item_index, looked_up)


def event_weight(liked: Tensor, disliked_weight: float) -> Tensor:
    """What each of E events counts, [E]."""
    return liked + (1 - liked) * disliked_weight


def lesson_of(
    model: LearnedRetriever, settings: RetrieverSettings, examples: Examples
) -> tuple[RetrieverObjective, Examples | Sequences, int]:
    """The objective of the settings' model, what batches of it are taken from, and rows of that a batch.

    `settings.batch_size` counts events, whatever a row is.
    """
    popularity = popularity_of(examples, model.spec.num_items)
    if not learns_sequences(settings):
        return RetrieverObjective(model, settings, popularity), examples, settings.batch_size
    assert isinstance(model, SequenceRetriever)
    sequences = sequences_of(examples)
    size = rows_a_batch(settings, len(sequences), len(examples))
    return SequenceObjective(model, settings, popularity), sequences, size


def rows_a_batch(settings: RetrieverSettings, num_rows: int, num_events: int) -> int:
    """Rows a batch that hold `settings.batch_size` events, where `num_rows` hold `num_events`."""
    return max(1, round(settings.batch_size * num_rows / num_events))


def learns_sequences(settings: RetrieverSettings) -> bool:
    """Whether the settings' model learns a sequence at a time (SequenceObjective) and not an event."""
    own = getattr(settings, settings.model, None)
    return bool(getattr(own, "whole_sequences", False))


class RankerObjective(nn.Module):
    """Watch: the item taken up against items that were not; like and rating: on items taken up only.

    What a head is not taught, by the model's task, it does not pass on to the network (ranking/tasks.py).

    Each negative stands for all the items it was drawn from (importance weights), so P(watch) is the
    probability that just this item of the catalogue is taken up next, and small; lists ordered by
    P(watch) * P(like) then keep the retriever's order where the ranker knows nothing better.
    """

    def __init__(self, model: RankingModel, settings: RankerSettings) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.weights: tuple[float, ...] = (1.0, 1.0)
        """What the losses count beside those of other processes, by `divisors` (batches.py)."""

    def divisors(self, batch: Examples) -> list[float]:
        """What the sums over the events of a batch are divided by: the watch loss's, and the others'."""
        return [float(event_weight(batch.liked, self.settings.disliked_weight).sum()), float(len(batch))]

    def forward(self, batch: Examples, candidates: Candidates) -> Tensor:
        """The loss of E events, a scalar."""
        return self.loss(self.heads(batch, candidates), batch, candidates)

    def loss(self, heads: Heads, batch: Examples, candidates: Candidates) -> Tensor:
        """The loss of `heads` of E events, a scalar."""
        like = functional.binary_cross_entropy_with_logits(heads.like[:, 0], batch.liked)
        rating = functional.mse_loss(heads.rating[:, 0], batch.rating)
        watch_counts, event_counts = self.weights
        loss = event_counts * like
        if self.model.task.learns_watch:
            watch = self.settings.watch_weight * self.watch_loss(heads, batch, candidates)
            loss = watch_counts * watch + loss
        return loss + event_counts * self.settings.rating_weight * rating

    def watch_loss(self, heads: Heads, batch: Examples, candidates: Candidates) -> Tensor:
        """The watch head's part of the loss of E events, a scalar."""
        target = torch.zeros_like(heads.watch)
        target[:, 0] = 1.0
        of_event = event_weight(batch.liked, self.settings.disliked_weight)
        weight = candidates.weight * of_event.unsqueeze(1)
        watch = functional.binary_cross_entropy_with_logits(heads.watch, target, weight, reduction="sum")
        return watch / of_event.sum().clamp(min=1e-6)

    def heads(self, batch: Examples, candidates: Candidates) -> Heads:
        """The model's heads [E, C] from one lookup."""
        model, index = self.model, candidates.item_index
        vectors = model.sparse({**model.user_indices(batch.user), **model.item_indices(index)})
        user = model.user_arch(batch.user, vectors)
        heads: Heads = model(user, model.item_arch(index, vectors), candidates.retrieval_score)
        return heads

    def scores(self, batch: Examples, candidates: Candidates) -> Tensor:
        """Score, P(like) and rating of every candidate, [E, 3 * C]: what must not change by gathering."""
        heads = self.heads(batch, candidates)
        return torch.cat([heads.score(), torch.sigmoid(heads.like), heads.rating], dim=1)
