"""The Deep Interest Network (Zhou et al. 2018, arXiv:1706.06978): the history as the candidate wakes it.

As in the paper, weights are not normalized, so that many events that match say more than one. Unlike the
paper's, the activation is a PReLU (its Dice needs statistics of the batch, which a single request has not).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leanrec.config import RankerSettings
from leanrec.models.inputs import ItemInputs
from leanrec.models.layers import MLP
from leanrec.models.ranking.history_model import HistoryModel
from leanrec.schema import ModelSpec


class LocalActivation(nn.Module):
    """Events of the history added up, each weighted by a network over [event, candidate, event * candidate].

    The first layer is three, one for each part: the event's and the candidate's are computed once each, only
    the product's for every pair of them.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.event = nn.Linear(dim, hidden)
        self.candidate = nn.Linear(dim, hidden, bias=False)
        self.product = nn.Linear(dim, hidden, bias=False)
        self.activation = nn.PReLU()
        self.weight = nn.Linear(hidden, 1)

    def forward(self, candidates: Tensor, events: Tensor, present: Tensor) -> Tensor:
        """Candidates [B, C, d], events [B, H, d], presence [B, H]; answers [B, C, d]."""
        product = self.product(candidates.unsqueeze(2) * events.unsqueeze(1))
        hidden = product + self.event(events).unsqueeze(1) + self.candidate(candidates).unsqueeze(2)
        weight = self.weight(self.activation(hidden)).squeeze(3) * present.unsqueeze(1)
        return torch.matmul(weight, events)


class DIN(HistoryModel):
    """A deep network over both sides' features and the history's activated sum."""

    def __init__(self, spec: ModelSpec, settings: RankerSettings, items: ItemInputs) -> None:
        super().__init__(spec, settings, items)
        self.activated = LocalActivation(settings.dim, settings.din.attention_hidden)
        self.deep = MLP(self.row_width + settings.dim, settings.hidden, settings.dropout)
        self.over = nn.Linear(self.deep.width, 3)

    def logits(self, user_features: Tensor, item_features: Tensor, retrieval_score: Tensor) -> Tensor:
        """User features [B, U], item features [B, C, I], retrieval scores [B, C]; answers [B, C, 3]."""
        events, present = self.history(user_features)
        candidates = self.item_fields.view(item_features, "item")
        interest = self.activated(candidates, events.squeeze(1), present)
        row = self.row(self.profile(user_features), item_features, retrieval_score)
        answered: Tensor = self.over(self.deep(torch.cat([row, interest], dim=2)))
        return answered
