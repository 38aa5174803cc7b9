"""Ranking models that look at the history once more for each candidate, and not only at its pool.

The user's features then hold the history too: `slots` vectors for each of its H events, and which events are
there. They are computed once a request, as all of the user's side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leanrec.config import RankerSettings
from leanrec.models.inputs import ItemInputs, UserInputs, known_index
from leanrec.models.ranking.fields import Fields
from leanrec.models.ranking.ranking_model import RankingModel
from leanrec.schema import ModelSpec


class EventVectors(nn.Module):
    """What an event of the history was: its item's vector, moved by how long ago it was and by its rating."""

    def __init__(self, history_length: int, dim: int, liked_threshold: float) -> None:
        super().__init__()
        self.liked_threshold = liked_threshold
        self.age = nn.Parameter(torch.zeros(history_length, dim))
        self.rating = nn.Parameter(torch.zeros(dim))

    def forward(self, vectors: Tensor, ratings: Tensor, present: Tensor) -> Tensor:
        """Vectors [B, H, d], ratings and presence [B, H]; answers [B, H, d]."""
        position = torch.arange(present.shape[1], device=present.device)
        age = (present.sum(dim=1, keepdim=True) - 1 - position).clamp(min=0)
        above = (ratings - self.liked_threshold).unsqueeze(2)
        return vectors + self.age[age] + above * self.rating


class HistoryModel(RankingModel):
    """A ranking model whose user features end with `events` [slots * H * d] and `present` [H].

    A subclass may make more than one vector of an event: it says `slots`, and overrides `encode`.
    """

    def __init__(self, spec: ModelSpec, settings: RankerSettings, items: ItemInputs, slots: int = 1) -> None:
        super().__init__(spec, settings, items)
        self.profile_width = self.user_fields.width
        self.shape = (slots, spec.history_length, settings.dim)
        self.user_fields = Fields(
            {name: place.stop - place.start for name, place in self.user_fields.places.items()}
            | {"events": slots * spec.history_length * settings.dim, "present": spec.history_length}
        )
        self.event_vectors = EventVectors(spec.history_length, settings.dim, spec.liked_threshold)

    def encode(self, events: Tensor, present: Tensor) -> Tensor:
        """Event vectors [B, H, d] and presence [B, H] (bool); answers [B, slots, H, d]."""
        return events.unsqueeze(1)

    def user_arch(self, user: UserInputs, vectors: dict[str, Tensor]) -> Tensor:
        """[B, U] from the user row and the vectors of `user_indices`."""
        present = known_index(user.history, self.spec.num_items) != 0
        events = self.event_vectors(vectors["history"], user.history_ratings, present)
        encoded = self.encode(events, present).flatten(1)
        return torch.cat([super().user_arch(user, vectors), encoded, present.to(encoded.dtype)], dim=1)

    def profile(self, user_features: Tensor) -> Tensor:
        """What any other ranking model is told of the user, [B, profile_width]."""
        return user_features[:, : self.profile_width]

    def history(self, user_features: Tensor) -> tuple[Tensor, Tensor]:
        """What `encode` answered [B, slots, H, d], and which events are there [B, H] (bool)."""
        encoded = self.user_fields.view(user_features, "events").unflatten(1, self.shape)
        return encoded, self.user_fields.view(user_features, "present") > 0
