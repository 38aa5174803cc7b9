"""NeuMF, or NCF (He et al. 2017, arXiv:1708.05031): matrix factorization beside a network over the same pair.

The paper gives each part tables of its own; here the first half of a row is the factorization's and the
second the network's. The paper's user is his number alone; here his history is part of him, so that one who
came after training is not nobody, and the network is told the other features too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leanrec.config import RankerSettings
from leanrec.models.inputs import ItemInputs
from leanrec.models.layers import MLP
from leanrec.models.ranking.ranking_model import RankingModel, scaled
from leanrec.schema import ModelSpec


class NeuMF(RankingModel):
    """GMF: the element-wise product of user and item. MLP: a network over both side by side."""

    def __init__(self, spec: ModelSpec, settings: RankerSettings, items: ItemInputs) -> None:
        super().__init__(spec, settings, items)
        self.cut = settings.dim // 2
        described = self.user_width + self.item_width - 2 * settings.dim + 1
        self.deep = MLP(2 * (settings.dim - self.cut) + described, settings.hidden, settings.dropout)
        self.over = nn.Linear(self.cut + self.deep.width, 3)

    def logits(self, user_features: Tensor, item_features: Tensor, retrieval_score: Tensor) -> Tensor:
        """User features [B, U], item features [B, C, I], retrieval scores [B, C]; answers [B, C, 3]."""
        dim = self.sparse.dim
        user = self.user_fields.view(user_features, "user") + self.user_fields.view(user_features, "history")
        item = self.item_fields.view(item_features, "item")
        product = user[:, : self.cut].unsqueeze(1) * item[..., : self.cut]
        # Both rows begin with the vector of the id; the rest describes.
        wide = torch.cat([user[:, self.cut :], user_features[:, dim:]], dim=1)
        wide = wide.unsqueeze(1).expand(-1, item.shape[1], -1)
        pair = torch.cat(
            [wide, item[..., self.cut :], item_features[..., dim:], scaled(retrieval_score)], dim=2
        )
        answered: Tensor = self.over(torch.cat([product, self.deep(pair)], dim=2))
        return answered
