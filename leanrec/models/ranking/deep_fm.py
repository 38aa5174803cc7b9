"""DeepFM (Guo et al. 2017, arXiv:1703.04247): factorization machine and deep network on the same vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leanrec.config import RankerSettings
from leanrec.models.inputs import ItemInputs
from leanrec.models.layers import MLP
from leanrec.models.ranking.factorization_machine import PairwiseProducts
from leanrec.models.ranking.ranking_model import RankingModel
from leanrec.schema import ModelSpec


class DeepFM(RankingModel):
    """A linear layer over the features, the products of all pairs of them, and the deep network's answer."""

    def __init__(self, spec: ModelSpec, settings: RankerSettings, items: ItemInputs) -> None:
        super().__init__(spec, settings, items)
        self.products = PairwiseProducts(self.num_numbers, settings.dim)
        self.deep = MLP(self.row_width, settings.hidden, settings.dropout)
        self.over = nn.Linear(self.row_width + settings.dim + self.deep.width, 3)

    def logits(self, user_features: Tensor, item_features: Tensor, retrieval_score: Tensor) -> Tensor:
        """User features [B, U], item features [B, C, I], retrieval scores [B, C]; answers [B, C, 3]."""
        pair = (user_features, item_features)
        row = self.row(*pair, retrieval_score)
        products = self.products(self.vectors(*pair), self.numbers(*pair, retrieval_score))
        answered: Tensor = self.over(torch.cat([row, products, self.deep(row)], dim=2))
        return answered
