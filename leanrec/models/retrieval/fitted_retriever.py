"""What retrievers without gradients share: a table of items, and a profile of the user's past.

A profile is the user's history as a row over the catalogue: 1 where he liked an item, `disliked_weight`
where he took it up and did not. It holds what the user row holds, the last H items, so a longer past is
forgotten; who is new is served as soon as he has a history, without fitting again.
"""

from __future__ import annotations

import scipy.sparse as sp
import torch
from torch import Tensor

from leanrec.config import RetrieverSettings
from leanrec.errors import ConfigError
from leanrec.models.inputs import ItemInputs, UserInputs, known_index
from leanrec.models.retrieval.retriever import FittedRetriever
from leanrec.schema import ModelSpec

MAX_BYTES = 2 * 1024**3
"""Largest item table."""


class TableRetriever(FittedRetriever):
    """A fitted retriever whose items are the rows of one table [N, D]."""

    item_table: Tensor

    def __init__(self, spec: ModelSpec, settings: RetrieverSettings, items: ItemInputs, width: int) -> None:
        super().__init__()
        self.spec, self.settings, self.width = spec, settings, width
        held = 4 * spec.num_items * width
        if held > MAX_BYTES:
            raise ConfigError(
                f"training.retriever.model {settings.model!r} would hold {spec.num_items:,} x {width:,} "
                f"numbers, {held / 1e9:.1f} GB, and may hold {MAX_BYTES / 1e9:.1f} GB; choose a model whose "
                "vectors are narrow, such as als or two_tower"
            )
        self.register_buffer("category_indices", items.category_indices)
        self.register_buffer("item_table", torch.zeros(spec.num_items, width))

    def item_vectors(self, item_index: Tensor | None = None) -> Tensor:
        """The vectors of the items in item_index [M], or of all; [M or N, D]."""
        return self.item_table if item_index is None else self.item_table[item_index]

    def scale(self, factor: float) -> None:
        """Multiply every score."""
        self.item_table.mul_(factor)

    def take(self, table: sp.spmatrix | Tensor) -> None:
        """Make `table` [N, D] the items' vectors; the unknown item keeps zeros."""
        dense = table if isinstance(table, Tensor) else torch.from_numpy(table.toarray())
        self.item_table.copy_(dense)
        self.item_table[0] = 0.0

    def profile(self, user: UserInputs) -> Tensor:
        """The history of B users as rows over the catalogue, [B, N]."""
        history = known_index(user.history, self.spec.num_items)
        empty = torch.zeros(history.shape[0], self.spec.num_items, device=history.device)
        return empty.scatter(1, history, self.strength(user))

    def past(self, user: UserInputs, table: Tensor) -> Tensor:
        """What the history of B users adds up to in rows of `table` [N, W], [B, W]."""
        history = known_index(user.history, self.spec.num_items)
        return (table[history] * self.strength(user).unsqueeze(2)).sum(dim=1)

    def strength(self, user: UserInputs) -> Tensor:
        """What each event of the history counts, [B, H]; 0 where there is none."""
        liked = user.history_ratings >= self.spec.liked_threshold
        weight = torch.where(liked, 1.0, self.settings.disliked_weight)
        return weight * (known_index(user.history, self.spec.num_items) > 0)


class ItemWeightsRetriever(TableRetriever):
    """A user is his profile, D = N: row j of the item table weighs the items of the past for item j."""

    def __init__(self, spec: ModelSpec, settings: RetrieverSettings, items: ItemInputs) -> None:
        super().__init__(spec, settings, items, width=spec.num_items)

    def user_vectors(self, user: UserInputs) -> Tensor:
        """The profiles of B users, [B, N]."""
        return self.profile(user)
