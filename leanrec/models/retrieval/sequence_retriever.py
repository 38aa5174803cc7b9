"""What GRU4Rec and SASRec share: a causal network over the history, which tells what the user takes up next.

The state at position p has heard the p oldest items of the history and no later one, so one pass over a whole
sequence gives the user vector before each of its events (SequenceObjective), and a served row reads the state
at its length. State 0, before anything is known, is learnt too: it serves users without a past.

B users · H history length · D width.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from leanrec.config import RetrieverSettings
from leanrec.models.inputs import ItemInputs, UserInputs, known_index
from leanrec.models.layers import SparseArch
from leanrec.models.retrieval.retriever import LearnedRetriever
from leanrec.schema import ModelSpec


class SequenceRetriever(LearnedRetriever):
    """One item table for the history and for what is scored; a subclass gives `encode`.

    An event of the history enters as its item's vector plus what its rating is worth, which is learnt.
    """

    def __init__(self, spec: ModelSpec, settings: RetrieverSettings, items: ItemInputs) -> None:
        super().__init__()
        self.spec = spec
        self.width = settings.dim
        features = {"item": "item", "history": "item"}
        self.sparse = SparseArch({"item": spec.num_items}, features, settings.dim)
        self.start = nn.Parameter(torch.zeros(1, 1, settings.dim))
        self.rating = nn.Parameter(torch.zeros(settings.dim))
        self.dropout = nn.Dropout(settings.dropout)
        self.register_buffer("category_indices", items.category_indices)

    @abstractmethod
    def encode(self, vectors: Tensor) -> Tensor:
        """The events of the history [B, H, D], oldest first; answers [B, H, D], each from those up to it."""

    def user_indices(self, user: UserInputs) -> dict[str, Tensor]:
        """history [B, H]."""
        return {"history": user.history}

    def item_indices(self, item_index: Tensor) -> dict[str, Tensor]:
        """item [...]."""
        return {"item": item_index}

    def user_states(self, user: UserInputs, vectors: dict[str, Tensor]) -> Tensor:
        """[B, H + 1, D]: the user vector after the first 0, 1, ... H items of the history."""
        known = known_index(user.history, self.spec.num_items) != 0
        rating = (user.history_ratings - self.spec.liked_threshold) * known
        events = vectors["history"] + rating.unsqueeze(2) * self.rating
        states = self.encode(self.dropout(events))
        return torch.cat([self.start.expand(states.shape[0], -1, -1), states], dim=1)

    def user_tower(self, user: UserInputs, vectors: dict[str, Tensor]) -> Tensor:
        """[B, D] from the user row and the vectors of `user_indices`."""
        length = (known_index(user.history, self.spec.num_items) != 0).sum(dim=1)
        states = self.user_states(user, vectors)
        place = length.view(-1, 1, 1).expand(-1, 1, self.width)
        return states.gather(1, place).squeeze(1)

    def item_tower(self, item_index: Tensor, vectors: dict[str, Tensor]) -> Tensor:
        """[..., D] from item_index [...] and the vectors of `item_indices`."""
        return vectors["item"]
