"""DLRM (Naumov et al. 2019, arXiv:1906.00091): dot products of all pairs of features, then a network.

A bottom network makes one more vector of the numbers. InteractionArch is TorchRec's.
"""

from __future__ import annotations

from torch import Tensor, nn

from leanrec.config import RankerSettings
from leanrec.models.inputs import ItemInputs
from leanrec.models.layers import MLP
from leanrec.models.ranking.ranking_model import RankingModel
from leanrec.schema import ModelSpec


class DLRM(RankingModel):
    """DenseArch over the numbers, InteractionArch over it and all vectors, OverArch on top."""

    def __init__(self, spec: ModelSpec, settings: RankerSettings, items: ItemInputs) -> None:
        from torchrec.models.dlrm import InteractionArch  # heavy, and no other model asks for it

        super().__init__(spec, settings, items)
        self.dense_arch = MLP(self.num_numbers, (*settings.dlrm.dense_hidden, settings.dim), 0.0)
        self.interaction_arch = InteractionArch(self.num_vectors)
        width = settings.dim + (self.num_vectors + 1) * self.num_vectors // 2
        self.deep = MLP(width, settings.hidden, settings.dropout)
        self.over = nn.Linear(self.deep.width, 3)

    def logits(self, user_features: Tensor, item_features: Tensor, retrieval_score: Tensor) -> Tensor:
        """User features [B, U], item features [B, C, I], retrieval scores [B, C]; answers [B, C, 3]."""
        pair = (user_features, item_features)
        dense: Tensor = self.dense_arch(self.numbers(*pair, retrieval_score))
        vectors = self.vectors(*pair)
        crossed = self.interaction_arch(dense.flatten(0, 1), vectors.flatten(0, 1))
        answered: Tensor = self.over(self.deep(crossed)).unflatten(0, dense.shape[:2])
        return answered
