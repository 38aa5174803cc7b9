"""What the heads of a ranking model learn, by `training.ranker.task`, and the order that follows from them.

Heads: watch (does the user take the item up at all), like (given that he does, is the rating at least the
liked threshold, which is the click where a rating says whether an impression was clicked), rating (how many
stars). A release answers all three whatever was learnt; a head that the task does not learn is two numbers
(slope, offset) put upon one that it does, fitted beside it without touching it (Platt 1999).

multi_task  watch, like and rating learn, from one network. As in ESMM (Ma et al. 2018, arXiv:1804.07931)
            lists are ordered by P(watch) * P(like): the probability that the user watches and likes.
click       watch and like learn, no rating does; the same order. The rating is a line over P(like).
rating      the squared error of the rating alone teaches the network, and lists are ordered by the predicted
            rating. P(watch) counts as 1, P(like) is a rising curve over the rating, and so is the score.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

STRIDE = 10.0
"""Slope and offset are learnt as a tenth of themselves: in the few steps of a course they have far to go."""
CERTAIN = 30.0
"""A logit whose probability is 1 in float32."""


class Heads(NamedTuple):
    """What a ranking model says of candidates; each [B, C]."""

    watch: Tensor
    """Logit of P(the user takes the item up)."""
    like: Tensor
    """Logit of P(rating >= liked threshold | taken up)."""
    rating: Tensor
    """Expected rating."""

    def score(self) -> Tensor:
        """P(watch) * P(like), [B, C] in 0..1."""
        return torch.sigmoid(self.watch) * torch.sigmoid(self.like)


class MultiTask(nn.Module):
    """Watch, like and rating as the network says."""

    learns_watch = True

    def __init__(self, liked_threshold: float) -> None:
        super().__init__()
        self.liked_threshold = liked_threshold

    def forward(self, watch: Tensor, like: Tensor, rating: Tensor) -> Heads:
        """The heads from what the network says, each [B, C]."""
        return Heads(watch, like, rating)

    def merit(self, figures: dict[str, float]) -> float:
        """What the best epoch has most of, of the figures ndcg, auc and rmse on held-out events."""
        return figures["ndcg"]


class Click(MultiTask):
    """Watch and like as the network says; the rating follows from P(like)."""

    def __init__(self, liked_threshold: float) -> None:
        super().__init__(liked_threshold)
        self.slope = nn.Parameter(torch.ones(()) / STRIDE)
        self.offset = nn.Parameter((liked_threshold - torch.ones(())) / STRIDE)

    def forward(self, watch: Tensor, like: Tensor, rating: Tensor) -> Heads:
        """The heads from what the network says, each [B, C]; its rating is not asked."""
        line = self.offset + self.slope * torch.sigmoid(like).detach()
        return Heads(watch, like, STRIDE * line)


class Rating(MultiTask):
    """The rating as the network says; P(like) follows from it, and everything counts as watched."""

    learns_watch = False

    def __init__(self, liked_threshold: float) -> None:
        super().__init__(liked_threshold)
        self.log_slope = nn.Parameter(torch.zeros(()))
        self.offset = nn.Parameter(torch.zeros(()))

    def forward(self, watch: Tensor, like: Tensor, rating: Tensor) -> Heads:
        """The heads from what the network says, each [B, C]; only its rating is asked."""
        above = rating.detach() - self.liked_threshold
        like = STRIDE * self.offset + torch.exp(STRIDE * self.log_slope) * above
        return Heads(torch.full_like(rating, CERTAIN), like, rating)

    def merit(self, figures: dict[str, float]) -> float:
        """The smallest error of the rating is the best."""
        return -figures["rmse"]


TASKS: dict[str, type[MultiTask]] = {"multi_task": MultiTask, "click": Click, "rating": Rating}
"""Name -> class; each is made as `cls(liked_threshold)`."""
