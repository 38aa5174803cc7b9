"""The two-tower retriever: one vector a user, one vector an item, their dot product is the score.

The user vector is a learnt mean of the history's item vectors (a linear path, as in FISM, Kabbur et al. 2013)
plus what a small network makes of the whole user row (Covington et al. 2016).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leanrec.config import RetrieverSettings
from leanrec.models.inputs import ItemInputs, UserInputs, known_index
from leanrec.models.layers import (
    MLP,
    HistoryPooling,
    SparseArch,
    item_dense,
    mean_of_present,
    user_dense,
)
from leanrec.models.retrieval.retriever import LearnedRetriever
from leanrec.schema import USER_STATISTICS, ModelSpec


class TwoTower(LearnedRetriever):
    """User and item towers. B users, N items, D = settings.dim.

    `sparse` holds the embedding tables; everything else is the dense part.
    """

    item_dense: Tensor

    def __init__(self, spec: ModelSpec, settings: RetrieverSettings, items: ItemInputs) -> None:
        super().__init__()
        self.spec = spec
        self.width = settings.dim
        attributes = {f"attribute_{i}": n for i, n in enumerate(spec.attribute_cardinalities.values())}
        tables = {
            "user": spec.num_users,
            "item": spec.num_items,
            "history": spec.num_items,
            "category": spec.num_categories,
            **attributes,
        }
        self.row_features = ("user", *attributes)
        self.sparse = SparseArch(tables, {name: name for name in tables}, settings.dim)
        self.pooling = HistoryPooling(spec.history_length, spec.liked_threshold)
        width = settings.dim * (2 + len(attributes)) + len(USER_STATISTICS)
        self.user_mlp = MLP(width, settings.hidden, settings.dropout)
        self.user_out = nn.Linear(self.user_mlp.width, settings.dim)
        self.item_out = nn.Linear(3, settings.dim)
        self.register_buffer("category_indices", items.category_indices)
        self.register_buffer("item_dense", item_dense(items.release_year, items.statistics))

    def user_tower(self, user: UserInputs, vectors: dict[str, Tensor]) -> Tensor:
        """[B, D] from the user row and the vectors of `user_indices`."""
        history = known_index(user.history, self.spec.num_items)
        pooled = self.pooling(vectors["history"], history, user.history_ratings)
        row = torch.cat([vectors[name] for name in self.row_features], dim=2).squeeze(1)
        dense = user_dense(user.user_statistics, self.spec.liked_threshold)
        return pooled + self.user_out(self.user_mlp(torch.cat([row, pooled, dense], dim=1)))

    def item_tower(self, item_index: Tensor, vectors: dict[str, Tensor]) -> Tensor:
        """[..., D] from item_index [...] and the vectors of `item_indices`."""
        described = mean_of_present(vectors["category"], self.category_indices[item_index])
        return vectors["item"] + described + self.item_out(self.item_dense[item_index])
