"""Negative sampling: the items that an item taken up is held against.

One draw serves all events of a step, so its vectors are looked up once and the scores are one matrix
product. Each distinct item appears once and remembers how often it was drawn, which changes no sum.

E events · N items · M distinct items.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from leanrec.config import RetrieverSettings
from leanrec.errors import TrainingError
from leanrec.schema import UNKNOWN_INDEX


class Negatives(NamedTuple):
    """M distinct items, rising."""

    item_index: Tensor
    """[M] int64."""
    share: Tensor
    """[M] float32: the share of the draws that fell on it; sums to 1."""
    correction: Tensor
    """[M] float32: log(times drawn / times expected in a draw that covers the catalogue once)."""


class NegativeSampler:
    """Draws as `settings.negatives` says, or answers the whole catalogue where the softmax is exact."""

    def __init__(self, settings: RetrieverSettings, num_items: int, popularity: Tensor | None = None) -> None:
        """`popularity` [N]: training events of each item; "popularity" and "in_batch" need it."""
        self.settings = settings
        self.num_items = num_items
        self.exact = settings.loss == "softmax" and num_items <= settings.full_softmax_items
        self.probability = torch.full((num_items,), 1.0 / (num_items - 1), dtype=torch.float64)
        self.ready = popularity is not None or settings.negatives not in ("popularity", "in_batch")
        if popularity is not None and settings.negatives in ("popularity", "in_batch"):
            known = popularity.double().clone()
            known[UNKNOWN_INDEX] = 0.0
            self.probability = known / known.sum()

    def draw(self, taken_up: Tensor, generator: torch.Generator) -> Negatives:
        """The negatives of a step whose events took up the items [E]."""
        device = taken_up.device
        if not self.ready:
            raise TrainingError(
                f"negatives {self.settings.negatives!r} need the items' popularity, and none was given; "
                "set training.retriever.negatives: uniform"
            )
        if self.exact:
            items = torch.arange(1, self.num_items, device=device)
            return Negatives(
                items, torch.full_like(items, 1.0 / len(items), dtype=torch.float32), items * 0.0
            )
        drawn = taken_up if self.settings.negatives == "in_batch" else self._sample(generator).to(device)
        items, times = torch.unique(drawn, return_counts=True)
        expected = len(drawn) * self.probability.to(device)[items]
        correction = (times / expected.clamp(min=1e-12)).log().float()
        return Negatives(items, (times / len(drawn)).float(), correction)

    def _sample(self, generator: torch.Generator) -> Tensor:
        size = self.settings.softmax_negatives
        if self.settings.negatives == "popularity":
            # torch.multinomial stops at 2^24 items; a search in the running sum does not.
            edges = self.probability.cumsum(0)
            places = torch.rand(size, generator=generator, dtype=torch.float64) * edges[-1]
            return torch.searchsorted(edges, places, right=True).clamp(max=self.num_items - 1)
        return torch.randint(1, self.num_items, (size,), generator=generator)


def hardest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` best of scores [E, M] and the share of each, both [E, count]: hard negatives.

    Source: dynamic negative sampling, Zhang et al. 2013, "Optimizing top-N collaborative filtering via
    dynamic negative item sampling". They are the hardest on purpose, so nothing corrects for the draw.
    """
    best = scores.topk(min(count, scores.shape[1]), dim=1).values
    return best, torch.full_like(best, 1.0 / best.shape[1])


def mask_known(scores: Tensor, items: Tensor, known: Tensor, masked: float) -> Tensor:
    """Scores [E, M] of rising `items` [M], those of each event's `known` items [E, S] set to `masked`."""
    place = torch.searchsorted(items, known).clamp(max=len(items) - 1)
    place = torch.where(items[place] == known, place, len(items))
    beside = torch.cat([scores, scores[:, :1]], dim=1)  # one more column takes what is not among the items
    return beside.scatter(1, place, masked)[:, :-1]
