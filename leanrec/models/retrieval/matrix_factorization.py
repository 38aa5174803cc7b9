"""Matrix factorization with biases (Koren, Bell & Volinsky 2009, "Matrix factorization techniques for
recommender systems").

    score(u, i) = mean + b_u + b_i + p_u . q_i

One row a user and one an item, of D numbers: D - 2 factors and the biases, so that the whole score is one dot
product:  [p_u, mean + b_u, 1] . [q_i, 1, b_i].  A user who was not there in training has the mean of his
history's factors for his own: he is folded in.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leanrec.config import RetrieverSettings
from leanrec.models.inputs import ItemInputs, UserInputs, known_index
from leanrec.models.layers import SparseArch, mean_of_present
from leanrec.models.retrieval.retriever import LearnedRetriever
from leanrec.schema import UNKNOWN_INDEX, ModelSpec


class MatrixFactorization(LearnedRetriever):
    """User and item factors with biases. B users, H history length, D = settings.dim."""

    def __init__(self, spec: ModelSpec, settings: RetrieverSettings, items: ItemInputs) -> None:
        super().__init__()
        self.spec = spec
        self.width = settings.dim
        features = {"user": "user", "item": "item", "history": "item"}
        self.sparse = SparseArch({"user": spec.num_users, "item": spec.num_items}, features, settings.dim)
        self.mean = nn.Parameter(torch.zeros(()))
        self.register_buffer("category_indices", items.category_indices)

    def user_indices(self, user: UserInputs) -> dict[str, Tensor]:
        """user [B, 1], history [B, H]."""
        return {"user": user.user_index, "history": user.history}

    def item_indices(self, item_index: Tensor) -> dict[str, Tensor]:
        """item [...]."""
        return {"item": item_index}

    def user_tower(self, user: UserInputs, vectors: dict[str, Tensor]) -> Tensor:
        """[B, D] from the user row and the vectors of `user_indices`."""
        history = known_index(user.history, self.spec.num_items)
        index = known_index(user.user_index, self.spec.num_users)
        folded_in = mean_of_present(vectors["history"], history)
        row = torch.where(index == UNKNOWN_INDEX, folded_in, vectors["user"].squeeze(1))
        bias = torch.where(index == UNKNOWN_INDEX, torch.zeros_like(row[:, :1]), row[:, -2:-1])
        return torch.cat([row[:, :-2], bias + self.mean, torch.ones_like(bias)], dim=1)

    def item_tower(self, item_index: Tensor, vectors: dict[str, Tensor]) -> Tensor:
        """[..., D] from item_index [...] and the vectors of `item_indices`."""
        row = vectors["item"]
        return torch.cat([row[..., :-2], torch.ones_like(row[..., :1]), row[..., -1:]], dim=-1)
