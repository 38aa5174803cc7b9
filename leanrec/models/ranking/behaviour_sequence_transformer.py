"""The Behaviour Sequence Transformer (Chen et al. 2019, arXiv:1905.06874): attention over history and target.

In the paper every event sees the target. Here the target sees the events and they see each other, so that a
history is encoded once a request, and a candidate costs one row of attention a layer instead of H + 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leanrec.config import RankerSettings
from leanrec.models.attention import TransformerLayer
from leanrec.models.inputs import ItemInputs
from leanrec.models.layers import MLP
from leanrec.models.ranking.history_model import HistoryModel
from leanrec.schema import ModelSpec


class BehaviourSequenceTransformer(HistoryModel):
    """A deep network over both sides' features and the candidate after it has seen the history."""

    def __init__(self, spec: ModelSpec, settings: RankerSettings, items: ItemInputs) -> None:
        own = settings.behaviour_sequence_transformer
        super().__init__(spec, settings, items, slots=own.layers)
        self.layers = nn.ModuleList(
            TransformerLayer(settings.dim, own.heads, settings.dropout) for _ in range(own.layers)
        )
        self.target = nn.Parameter(torch.zeros(settings.dim))
        self.deep = MLP(self.row_width + settings.dim, settings.hidden, settings.dropout)
        self.over = nn.Linear(self.deep.width, 3)

    def encode(self, events: Tensor, present: Tensor) -> Tensor:
        """What each layer's target sees of the events: [B, layers, H, d] from [B, H, d]."""
        own = torch.eye(events.shape[1], dtype=torch.bool, device=events.device)
        hidden = own | ~present.unsqueeze(1)
        states = [events]
        for layer in self.layers[:-1]:
            states.append(layer(states[-1], states[-1], hidden))
        return torch.stack(states, dim=1)

    def logits(self, user_features: Tensor, item_features: Tensor, retrieval_score: Tensor) -> Tensor:
        """User features [B, U], item features [B, C, I], retrieval scores [B, C]; answers [B, C, 3]."""
        states, present = self.history(user_features)
        token = self.item_fields.view(item_features, "item") + self.target
        for i, layer in enumerate(self.layers):
            token = layer(token, states[:, i], ~present.unsqueeze(1))
        row = self.row(self.profile(user_features), item_features, retrieval_score)
        answered: Tensor = self.over(self.deep(torch.cat([row, token], dim=2)))
        return answered
