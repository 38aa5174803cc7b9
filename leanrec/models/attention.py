"""A Transformer layer whose tokens see a context that they are no part of, and themselves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

HIDDEN = float("-inf")


class TransformerLayer(nn.Module):
    """Multi-head attention and a feed-forward network, each added to its input and normalized (post-norm).

    Heads share out `dim` unless `head_width` says otherwise.
    """

    def __init__(self, dim: int, heads: int, dropout: float, head_width: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * (head_width or dim // heads)
        self.query, self.key, self.value = (nn.Linear(dim, inner) for _ in range(3))
        self.out = nn.Linear(inner, dim)
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
        """[B, T, heads * width] to [B, heads, T, width]."""
        return rows.unflatten(2, (self.heads, -1)).transpose(1, 2)
