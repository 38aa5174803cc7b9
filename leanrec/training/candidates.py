"""What the ranker learns from: the item taken up, beside items that the retriever would have put forward.

The hard negatives of an event come from the retriever's best items for the user as he was just before it,
minus what he had seen by then; the easy ones are uniform draws.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from leanrec.config import RankerSettings
from leanrec.models.recommender import MASKED
from leanrec.models.retrieval.retriever import Retriever
from leanrec.schema import UNKNOWN_INDEX
from leanrec.training.examples import Examples


class Candidates(NamedTuple):
    """C candidates for each of E events, each [E, C]; column 0 is the item taken up."""

    item_index: Tensor
    retrieval_score: Tensor
    weight: Tensor
    """How many items of the catalogue the candidate stands for."""


class CandidateSampler:
    """Draws candidates for the ranker from a trained retriever, which stays as it is."""

    def __init__(self, retriever: Retriever, settings: RankerSettings, num_candidates: int) -> None:
        num_items = retriever.spec.num_items
        self.retriever = retriever.eval()
        self.num_hard = round(settings.negatives * settings.hard_negatives)
        self.num_easy = settings.negatives - self.num_hard
        self.depth = min(num_candidates, num_items - 1)
        hard = [self.depth / self.num_hard] * self.num_hard if self.num_hard else []
        rest = num_items - 1 - (self.depth if self.num_hard else 0)
        easy = [rest / self.num_easy] * self.num_easy if self.num_easy else []
        self.weight = torch.tensor([1.0, *hard, *easy])
        with torch.no_grad():
            retriever.freeze()
            self.item_vectors = retriever.item_vectors()

    @torch.no_grad()
    def draw(self, batch: Examples, draw: torch.Generator) -> Candidates:
        """One item taken up, the hard and the easy negatives of each of E events."""
        num_items = self.retriever.spec.num_items
        scores = self.retriever.user_vectors(batch.user) @ self.item_vectors.T
        taken_up = batch.item_index.unsqueeze(1)
        masked = scores.scatter(1, torch.cat([batch.user.history, taken_up], dim=1), MASKED)
        masked[:, UNKNOWN_INDEX] = MASKED
        best = masked.topk(self.depth, dim=1).indices
        place = torch.randint(0, self.depth, (len(batch), self.num_hard), generator=draw)
        hard = best.gather(1, place.to(best.device))
        easy = torch.randint(1, num_items, (len(batch), self.num_easy), generator=draw).to(best.device)
        candidates = torch.cat([taken_up, hard, easy], dim=1)
        drawn = masked.gather(1, candidates[:, 1:]) > MASKED
        weight = self.weight.to(scores.device).expand(len(batch), -1).clone()
        weight[:, 1:] *= drawn
        return Candidates(candidates, scores.gather(1, candidates), weight)

    @torch.no_grad()
    def log_partition(self, batch: Examples, temperature: float) -> float:
        """The mean log of the softmax's denominator over these events."""
        scores = self.retriever.user_vectors(batch.user) @ self.item_vectors.T
        return float(torch.logsumexp(scores[:, 1:] / temperature, dim=1).mean())
