"""Wide & Deep (Cheng et al. 2016, arXiv:1606.07792): a linear model remembers, a network generalizes.

The wide part of the paper takes products that people chose. Here they are the two that say most of a pair of
a user and an item: their affinity and the retrieval score.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leanrec.config import RankerSettings
from leanrec.models.inputs import ItemInputs
from leanrec.models.layers import MLP
from leanrec.models.ranking.ranking_model import RankingModel
from leanrec.schema import ModelSpec


class WideAndDeep(RankingModel):
    """A linear layer over all features, and over what a deep network makes of them."""

    def __init__(self, spec: ModelSpec, settings: RankerSettings, items: ItemInputs) -> None:
        super().__init__(spec, settings, items)
        self.deep = MLP(self.row_width, settings.hidden, settings.dropout)
        self.over = nn.Linear(self.row_width + self.deep.width, 3)

    def logits(self, user_features: Tensor, item_features: Tensor, retrieval_score: Tensor) -> Tensor:
        """User features [B, U], item features [B, C, I], retrieval scores [B, C]; answers [B, C, 3]."""
        row = self.row(user_features, item_features, retrieval_score)
        answered: Tensor = self.over(torch.cat([row, self.deep(row)], dim=2))
        return answered
