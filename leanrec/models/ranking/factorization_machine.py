"""The factorization machine (Rendle 2010): a weight for each feature, and one for each pair of them.

The weight of a pair is the dot product of the two features' vectors. Here the d products of a pair go to the
last layer one by one (the Bi-Interaction of NFM, He & Chua 2017, arXiv:1708.05027), which weights them for
each head: with weights of one it is Rendle's model. TorchRec's FactorizationMachine is another: it adds up
every product of two coordinates, those of unlike dimensions too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leanrec.config import RankerSettings
from leanrec.models.inputs import ItemInputs
from leanrec.models.ranking.ranking_model import RankingModel
from leanrec.schema import ModelSpec


class PairwiseProducts(nn.Module):
    """The products of all pairs of features' vectors, added up: [..., d] from [..., F, d] and [..., n].

    A number x is a feature whose vector is x times one learnt for its place.
    """

    def __init__(self, num_numbers: int, dim: int) -> None:
        super().__init__()
        self.of_number = nn.Parameter(torch.randn(num_numbers, dim) * dim**-0.5)

    def forward(self, vectors: Tensor, numbers: Tensor) -> Tensor:
        """Vectors [..., F, d] and numbers [..., n]; answers [..., d]."""
        every = torch.cat([vectors, numbers.unsqueeze(-1) * self.of_number], dim=-2)
        return 0.5 * (every.sum(dim=-2).square() - every.square().sum(dim=-2))


class FactorizationMachine(RankingModel):
    """A linear layer over the features and over the products of all pairs of them."""

    def __init__(self, spec: ModelSpec, settings: RankerSettings, items: ItemInputs) -> None:
        super().__init__(spec, settings, items)
        self.products = PairwiseProducts(self.num_numbers, settings.dim)
        self.over = nn.Linear(self.row_width + settings.dim, 3)

    def logits(self, user_features: Tensor, item_features: Tensor, retrieval_score: Tensor) -> Tensor:
        """User features [B, U], item features [B, C, I], retrieval scores [B, C]; answers [B, C, 3]."""
        pair = (user_features, item_features)
        products = self.products(self.vectors(*pair), self.numbers(*pair, retrieval_score))
        answered: Tensor = self.over(torch.cat([self.row(*pair, retrieval_score), products], dim=2))
        return answered
