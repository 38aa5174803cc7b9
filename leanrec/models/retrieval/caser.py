"""Caser (Tang & Wang 2018, arXiv:1809.07426): convolutions over the latest items as over a picture.

Horizontal filters span h items at once and all dimensions (what comes together), vertical ones all items and
one dimension (a weighted sum over time). The user's own vector stands beside them for his lasting taste: the
score is [sequence, user] . [item, item's answer to users], two vectors an item as in the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leanrec.config import RetrieverSettings
from leanrec.models.inputs import ItemInputs, UserInputs, known_index
from leanrec.models.layers import SparseArch
from leanrec.models.retrieval.retriever import LearnedRetriever
from leanrec.schema import ModelSpec


class Caser(LearnedRetriever):
    """Convolutions over the L latest items. B users, H history length, d = settings.dim, D = 2 d."""

    def __init__(self, spec: ModelSpec, settings: RetrieverSettings, items: ItemInputs) -> None:
        super().__init__()
        own, dim = settings.caser, settings.dim
        self.spec = spec
        self.width = 2 * dim
        self.length = min(own.length, spec.history_length)
        tables = {
            "user": spec.num_users,
            "history": spec.num_items,
            "item": spec.num_items,
            "taste": spec.num_items,
        }
        self.sparse = SparseArch(tables, {name: name for name in tables}, dim)
        heights = range(1, self.length + 1)
        # Layers over windows, not Conv1d: its gradient took minutes for narrow pictures on a CPU.
        self.horizontal = nn.ModuleList(nn.Linear(h * dim, own.horizontal_filters) for h in heights)
        self.vertical = nn.Linear(self.length, own.vertical_filters, bias=False)
        self.dropout = nn.Dropout(settings.dropout)
        self.out = nn.Linear(own.vertical_filters * dim + own.horizontal_filters * self.length, dim)
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("category_indices", items.category_indices)

    def user_indices(self, user: UserInputs) -> dict[str, Tensor]:
        """user [B, 1], history [B, L]: the latest items, oldest first, 0 where there are fewer."""
        return {"user": user.user_index, "history": self._latest(user.history)}

    def item_indices(self, item_index: Tensor) -> dict[str, Tensor]:
        """item and taste [...]: an item's answer to the sequence, and to the user."""
        return {"item": item_index, "taste": item_index}

    def user_tower(self, user: UserInputs, vectors: dict[str, Tensor]) -> Tensor:
        """[B, D] from the user row and the vectors of `user_indices`."""
        present = (self._latest(user.history) != 0).unsqueeze(2)
        picture = vectors["history"] * present  # [B, L, d]
        strongest = [
            torch.relu(filters(self._windows(picture, height))).amax(dim=1)
            for height, filters in enumerate(self.horizontal, 1)
        ]
        over_time = self.vertical(picture.transpose(1, 2)).flatten(1)
        sequence = torch.relu(self.out(self.dropout(torch.cat([over_time, *strongest], dim=1))))
        return torch.cat([sequence, vectors["user"].squeeze(1) + self.bias], dim=1)

    def item_tower(self, item_index: Tensor, vectors: dict[str, Tensor]) -> Tensor:
        """[..., D] from item_index [...] and the vectors of `item_indices`."""
        return torch.cat([vectors["item"], vectors["taste"]], dim=-1)

    def _windows(self, picture: Tensor, height: int) -> Tensor:
        """Every `height` neighbouring rows of pictures [B, L, d] as one, [B, L - height + 1, height * d]."""
        places = self.length - height + 1
        return torch.cat([picture[:, row : row + places] for row in range(height)], dim=2)

    def _latest(self, history: Tensor) -> Tensor:
        """The L latest items of histories [B, H], oldest first; 0 before the first one."""
        history = known_index(history, self.spec.num_items)
        length = (history != 0).sum(dim=1, keepdim=True)
        place = length - self.length + torch.arange(self.length, device=history.device)
        latest = history.gather(1, place.clamp(min=0))
        return torch.where(place >= 0, latest, torch.zeros_like(latest))
