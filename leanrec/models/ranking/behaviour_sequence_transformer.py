"""The Behaviour Sequence Transformer (Chen et al. 2019, arXiv:1905.06874): attention over history and target.

In the paper every event sees the target. Here the target sees the events and they see each other, so that a
history is encoded once a request, and a candidate costs one row of attention a layer instead of H + 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leanrec.config import RankerSettings
from leanrec.models.inputs import ItemInputs
from leanrec.models.layers import MLP
from leanrec.models.ranking.history_model import HistoryModel
from leanrec.schema import ModelSpec

HIDDEN = float("-inf")


class TransformerLayer(nn.Module):
    """Multi-head attention and a feed-forward network, each added to its input and normalized (post-norm)."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.out = nn.Linear(dim, dim)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 4 * dim), nn.LeakyReLU(), nn.Linear(4 * dim, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, context: Tensor, hidden: Tensor) -> Tensor:
        """Let tokens [B, T, d] see the context [B, H, d] but where `hidden` [B, T or 1, H]; [B, T, d].

        A token always sees itself, which is no part of the context.
        """
        query, key, value = (self._split(layer(tokens)) for layer in (self.query, self.key, self.value))
        score = query @ self._split(self.key(context)).transpose(2, 3)
        score = score.masked_fill(hidden.unsqueeze(1), HIDDEN)
        own = (query * key).sum(dim=3, keepdim=True)
        weight = torch.softmax(torch.cat([own, score], dim=3) * query.shape[3] ** -0.5, dim=3)
        seen = weight[..., :1] * value + weight[..., 1:] @ self._split(self.value(context))
        tokens = self.norms[0](tokens + self.dropout(self.out(seen.transpose(1, 2).flatten(2))))
        answered: Tensor = self.norms[1](tokens + self.dropout(self.feed_forward(tokens)))
        return answered

    def _split(self, rows: Tensor) -> Tensor:
        """[B, T, d] to [B, heads, T, d / heads]."""
        return rows.unflatten(2, (self.heads, -1)).transpose(1, 2)


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
