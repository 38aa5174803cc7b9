"""What a student learns from a teacher: lists, logits and features.

retriever   the softmax over the catalogue of the teacher's retriever (Hinton et al. 2015), and the order in
            which the teacher's ranker, which crosses features, puts the items on top of it: a list-wise loss
            (ListNet, Cao et al. 2007; ranking distillation, Tang and Wang 2018, arXiv:1809.07428)
ranker      the logits of its three heads on every candidate, and its last hidden layer through a learnt
            linear map, which is thrown away afterwards (FitNets, Romero et al. 2015, arXiv:1412.6550)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from leanrec.compression.architecture import ranker_as, retriever_as
from leanrec.models.layers import MLP
from leanrec.models.ranking.behaviour_sequence_transformer import BehaviourSequenceTransformer
from leanrec.models.ranking.dcn_v2 import DCNv2Ranker
from leanrec.models.ranking.tasks import Heads
from leanrec.models.recommender import MASKED, Recommender
from leanrec.models.retrieval.retriever import LearnedRetriever
from leanrec.training.candidates import Candidates
from leanrec.training.examples import Examples
from leanrec.training.negatives import Negatives
from leanrec.training.objectives import RankerObjective, RetrieverObjective

METHOD = "distil"
LIST_LENGTH = 50
"""Items on top of the teacher's retrieval whose order by its ranker the student's retriever learns."""


class Teacher:
    """One trained model or an ensemble, whose members' answers are averaged."""

    def __init__(self, members: Sequence[Recommender]) -> None:
        self.members = [member.eval().requires_grad_(False) for member in members]

    @torch.no_grad()
    def retrieval(self, batch: Examples, negatives: Negatives) -> Tensor:
        """Log-probabilities of the softmax over the item taken up and `negatives`, [E, 1 + M]."""
        told = [
            RetrieverObjective(
                retriever_as(LearnedRetriever, member, METHOD), member.settings.retriever
            ).logits(batch, negatives)
            for member in self.members
        ]
        mean = torch.stack([functional.log_softmax(logits, dim=1) for logits in told]).mean(dim=0)
        return functional.log_softmax(mean, dim=1)  # a mean of several has to be normalized again

    @torch.no_grad()
    def heads(self, batch: Examples, item_index: Tensor) -> tuple[Heads, Tensor]:
        """The heads for candidates [E, C], and the last hidden layer of the first member, [E, C, H]."""
        with _hidden_layer(_deep_of_teacher(self.members[0])) as hidden:
            told = [member.rank(batch.user, item_index) for member in self.members]
        return Heads(*(torch.stack(logits).mean(dim=0) for logits in zip(*told, strict=True))), hidden[0]


class DistilledRetrieverObjective(nn.Module):
    """The retriever's own loss, blended with the teacher's softmax and the order by the teacher's ranker."""

    def __init__(
        self, objective: RetrieverObjective, teacher: Teacher, weight: float, list_weight: float
    ) -> None:
        super().__init__()
        self.objective, self.teacher = objective, teacher
        self.weight, self.list_weight = weight, list_weight

    def forward(self, batch: Examples, draw: torch.Generator) -> Tensor:
        """The loss of E events, a scalar."""
        negatives = self.objective.negatives(batch, draw)
        logits = self.objective.logits(batch, negatives)
        told = self.teacher.retrieval(batch, negatives)
        ours = functional.log_softmax(logits, dim=1)
        loss = functional.kl_div(ours, told, reduction="batchmean", log_target=True)
        if self.list_weight > 0:
            loss = loss + self.list_weight * self._list_loss(batch, negatives, logits, told)
        return (1 - self.weight) * self.objective.loss(logits, batch, negatives) + self.weight * loss

    def _list_loss(self, batch: Examples, negatives: Negatives, logits: Tensor, told: Tensor) -> Tensor:
        length = min(LIST_LENGTH, told.shape[1] - 1)
        place = told[:, 1:].topk(length, dim=1).indices
        heads, _ = self.teacher.heads(batch, negatives.item_index[place])
        order = functional.log_softmax(torch.log(heads.score().clamp(min=1e-12)), dim=1)
        ours = functional.log_softmax(logits[:, 1:].gather(1, place).clamp(min=MASKED), dim=1)
        return functional.kl_div(ours, order, reduction="batchmean", log_target=True)


class DistilledRankerObjective(nn.Module):
    """The ranker's own loss, blended with the teacher's logits and last hidden layer."""

    def __init__(
        self, objective: RankerObjective, teacher: Teacher, weight: float, feature_weight: float
    ) -> None:
        super().__init__()
        self.objective, self.teacher = objective, teacher
        self.weight, self.feature_weight = weight, feature_weight
        width = _deep_of_teacher(teacher.members[0]).width
        self.hint = nn.Linear(_deep_of(objective.model).width, width)

    def forward(self, batch: Examples, candidates: Candidates) -> Tensor:
        """The loss of E events, a scalar."""
        with _hidden_layer(_deep_of(self.objective.model)) as ours:
            heads = self.objective.heads(batch, candidates)
        told, theirs = self.teacher.heads(batch, candidates.item_index)
        settings = self.objective.settings
        watch = functional.binary_cross_entropy_with_logits(
            heads.watch, torch.sigmoid(told.watch), candidates.weight, reduction="sum"
        ) / len(batch)
        like = functional.binary_cross_entropy_with_logits(heads.like, torch.sigmoid(told.like))
        rating = functional.mse_loss(heads.rating, told.rating)
        loss = settings.watch_weight * watch + like + settings.rating_weight * rating
        if self.feature_weight > 0:
            loss = loss + self.feature_weight * functional.mse_loss(self.hint(ours[0]), theirs)
        own = self.objective.loss(heads, batch, candidates)
        return (1 - self.weight) * own + self.weight * loss


def _deep_of_teacher(teacher: Recommender) -> MLP:
    """The deep part of its ranker; a CompressionError where that is of no architecture known inside."""
    if isinstance(teacher.ranker, BehaviourSequenceTransformer):
        return teacher.ranker.deep
    return ranker_as(DCNv2Ranker, teacher, METHOD).deep


def _deep_of(ranker: nn.Module) -> MLP:
    assert isinstance(ranker, DCNv2Ranker | BehaviourSequenceTransformer)
    return ranker.deep


@contextmanager
def _hidden_layer(deep: MLP) -> Iterator[list[Tensor]]:
    """A list that takes up the last layer of `deep`, [..., H], each time that its model answers."""
    seen: list[Tensor] = []
    hook = deep.register_forward_hook(lambda _, __, output: seen.append(output))
    try:
        yield seen
    finally:
        hook.remove()
