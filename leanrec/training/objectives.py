"""What each model is trained to do: a loss on a batch, as a module that DistributedModelParallel can wrap.

E events of a batch (this process's share) · N items · C candidates an event · D retriever width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from leanrec.config import RankerSettings, RetrieverSettings
from leanrec.models.inputs import known_index
from leanrec.models.ranking.ranking_model import Heads, RankingModel
from leanrec.models.recommender import MASKED
from leanrec.models.retrieval.retriever import LearnedRetriever
from leanrec.training.candidates import Candidates
from leanrec.training.examples import Examples


class RetrieverObjective(nn.Module):
    """Softmax over the catalogue: the item that the user took up against all items not yet seen.

    Events that were not liked count with weight `disliked_weight`. Up to `full_softmax_items` items the
    softmax is exact; a larger catalogue is sampled uniformly, with the correction of Bengio & Senecal (2008).
    """

    def __init__(self, model: LearnedRetriever, settings: RetrieverSettings) -> None:
        super().__init__()
        self.model = model
        self.settings = settings

    def forward(self, batch: Examples, draw: torch.Generator) -> Tensor:
        """The loss of E events, a scalar."""
        return self.loss(self.logits(batch, self.negatives(batch, draw)), batch)

    def negatives(self, batch: Examples, draw: torch.Generator) -> Tensor:
        """The items [M] that each item taken up is held against: the whole catalogue, or a sample of it."""
        device, num_items = batch.item_index.device, self.model.spec.num_items
        if self._is_exact():
            return torch.arange(num_items, device=device)
        shape = (self.settings.softmax_negatives,)
        return torch.randint(1, num_items, shape, generator=draw).to(device)

    def logits(self, batch: Examples, negatives: Tensor) -> Tensor:
        """The softmax's logits [E, 1 + M]: the item taken up, then `negatives` [M]."""
        item_index = torch.cat([negatives, batch.item_index])
        model = self.model
        vectors = model.sparse({**model.user_indices(batch.user), **model.item_indices(item_index)})
        users = model.user_tower(batch.user, vectors)
        items = model.item_tower(item_index, vectors)
        taken_up = (users * items[len(negatives) :]).sum(dim=1, keepdim=True)
        others = users @ items[: len(negatives)].T
        exact = self._is_exact()
        others = others.masked_fill(self._excluded(batch, negatives, exact), MASKED)
        if not exact:
            others = others + math.log((model.spec.num_items - 1) / len(negatives))
        return torch.cat([taken_up, others], dim=1) / self.settings.temperature

    def loss(self, logits: Tensor, batch: Examples) -> Tensor:
        """The loss of `logits` of E events, a scalar."""
        loss = -functional.log_softmax(logits, dim=1)[:, 0]
        weight = batch.liked + (1 - batch.liked) * self.settings.disliked_weight
        return (loss * weight).sum() / weight.sum().clamp(min=1e-6)

    def _is_exact(self) -> bool:
        return self.model.spec.num_items <= self.settings.full_softmax_items

    def scores(self, batch: Examples) -> Tensor:
        """Retrieval scores of E events, [E]: what must not change when the weights are gathered."""
        model = self.model
        indices = {**model.user_indices(batch.user), **model.item_indices(batch.item_index)}
        vectors = model.sparse(indices)
        users = model.user_tower(batch.user, vectors)
        return (users * model.item_tower(batch.item_index, vectors)).sum(dim=1)

    def _excluded(self, batch: Examples, negatives: Tensor, exact: bool) -> Tensor:
        """[E, negatives] bool: the item itself, items seen, and the unknown index are no negatives."""
        taken_up = batch.item_index.unsqueeze(1)
        if not exact:
            return negatives.unsqueeze(0) == taken_up
        excluded = torch.zeros(len(batch), len(negatives), dtype=torch.bool, device=negatives.device)
        seen = torch.cat([known_index(batch.user.history, len(negatives)), taken_up, taken_up * 0], dim=1)
        return excluded.scatter(1, seen, True)


class RankerObjective(nn.Module):
    """Watch: the item taken up against items that were not; like and rating: on items taken up only.

    Each negative stands for all the items it was drawn from (importance weights), so P(watch) is the
    probability that just this item of the catalogue is taken up next, and small; lists ordered by
    P(watch) * P(like) then keep the retriever's order where the ranker knows nothing better.
    """

    def __init__(self, model: RankingModel, settings: RankerSettings) -> None:
        super().__init__()
        self.model = model
        self.settings = settings

    def forward(self, batch: Examples, candidates: Candidates) -> Tensor:
        """The loss of E events, a scalar."""
        return self.loss(self.heads(batch, candidates), batch, candidates)

    def loss(self, heads: Heads, batch: Examples, candidates: Candidates) -> Tensor:
        """The loss of `heads` of E events, a scalar."""
        target = torch.zeros_like(heads.watch)
        target[:, 0] = 1.0
        event_weight = batch.liked + (1 - batch.liked) * self.settings.disliked_weight
        weight = candidates.weight * event_weight.unsqueeze(1)
        watch = functional.binary_cross_entropy_with_logits(heads.watch, target, weight, reduction="sum")
        watch = watch / event_weight.sum().clamp(min=1e-6)
        like = functional.binary_cross_entropy_with_logits(heads.like[:, 0], batch.liked)
        rating = functional.mse_loss(heads.rating[:, 0], batch.rating)
        return self.settings.watch_weight * watch + like + self.settings.rating_weight * rating

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
