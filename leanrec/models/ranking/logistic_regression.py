"""Logistic regression (Richardson et al. 2007): a weight for each feature, and no crossing of the two sides.

An id's weight is the dot product of its vector and the weights of its field, so that the tables serve three
heads at once. As nothing is crossed, the user's features move all his candidates alike; what orders them is
the item's own weights and the retrieval score. The figure to beat.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leanrec.config import RankerSettings
from leanrec.models.inputs import ItemInputs
from leanrec.models.ranking.ranking_model import RankingModel, scaled
from leanrec.schema import ModelSpec


class LogisticRegression(RankingModel):
    """One linear layer over both sides' features and the retrieval score."""

    def __init__(self, spec: ModelSpec, settings: RankerSettings, items: ItemInputs) -> None:
        super().__init__(spec, settings, items)
        self.over = nn.Linear(self.user_width + self.item_width + 1, 3)

    def logits(self, user_features: Tensor, item_features: Tensor, retrieval_score: Tensor) -> Tensor:
        """User features [B, U], item features [B, C, I], retrieval scores [B, C]; answers [B, C, 3]."""
        wide = user_features.unsqueeze(1).expand(-1, item_features.shape[1], -1)
        answered: Tensor = self.over(torch.cat([wide, item_features, scaled(retrieval_score)], dim=2))
        return answered
