"""DCNv2 (Wang et al. 2021, arXiv:2008.13535): cross layers beside a deep network, both over all features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leanrec.config import RankerSettings
from leanrec.models.inputs import ItemInputs
from leanrec.models.layers import MLP
from leanrec.models.ranking.by_side import DCNv2BySide
from leanrec.models.ranking.ranking_model import RankingModel
from leanrec.schema import ModelSpec


class CrossNetwork(nn.Module):
    """x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, over the last axis."""

    def __init__(self, width: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(num_layers))

    def forward(self, first: Tensor) -> Tensor:
        """[..., width] in and out."""
        crossed = first
        for layer in self.layers:
            crossed = first * layer(crossed) + crossed
        return crossed


class DCNv2Ranker(RankingModel):
    """Cross network and deep network over both sides' features, their affinity and the retrieval score."""

    def __init__(self, spec: ModelSpec, settings: RankerSettings, items: ItemInputs) -> None:
        super().__init__(spec, settings, items)
        self.cross = CrossNetwork(self.row_width, settings.cross_layers)
        self.deep = MLP(self.row_width, settings.hidden, settings.dropout)
        self.over = nn.Linear(self.row_width + self.deep.width, 3)

    def logits(self, user_features: Tensor, item_features: Tensor, retrieval_score: Tensor) -> Tensor:
        """User features [B, U], item features [B, C, I], retrieval scores [B, C]; answers [B, C, 3]."""
        row = self.row(user_features, item_features, retrieval_score)
        answered: Tensor = self.over(torch.cat([self.cross(row), self.deep(row)], dim=2))
        return answered

    def split_by_side(self) -> DCNv2BySide | None:
        """`logits` over rows by side, with copies of the weights; None where there is no deep network."""
        if not len(self.deep):
            return None
        return DCNv2BySide(self.cross.layers, self.deep, self.over, self.user_width)
