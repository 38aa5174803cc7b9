"""Attention of fewer heads: each that stays keeps its width, so together they are narrower than the model.

    fewer_heads            nn.MultiheadAttention, as the layers of SASRec have it
    layer_of_fewer_heads   a TransformerLayer, as the Behaviour Sequence Transformer has them

Shapes: B users · T tokens · d width of the model · h heads that stay · w width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from leanrec.models.attention import TransformerLayer
from leanrec.models.forms.form import Form


class AttentionForm(Form):
    """What both forms have in common: `heads` heads, whose outputs side by side [..., h * w] enter `out`."""

    heads: int
    out: nn.Linear

    def keep(self, plain: Any, kept: Tensor) -> None:
        """Be `plain` with the heads `kept` [h] alone: its answers are those with all others' outputs zero."""
        raise NotImplementedError

    def imitate(self, plain: Any) -> None:
        """The first heads; who knows which matter most calls `keep`."""
        self.keep(plain, torch.arange(self.heads))


class FewerHeads(AttentionForm):
    """Self-attention in the place of nn.MultiheadAttention, called as nn.TransformerEncoderLayer does."""

    batch_first = True
    in_proj_bias = None
    """So the encoder layer asks this module, and does not look for weights of the plain one."""

    def __init__(self, plain: nn.MultiheadAttention, model: Any, heads: int) -> None:
        super().__init__()
        require_heads(heads, plain.num_heads)
        self.heads, self.dropout = heads, plain.dropout
        self.into = nn.Linear(plain.embed_dim, 3 * heads * plain.head_dim)
        self.out = nn.Linear(heads * plain.head_dim, plain.embed_dim)

    def forward(
        self,
        tokens: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """Tokens [B, T, d], as key and value once more, mask [T, T]; answers [B, T, d], and no weights.

        Where `is_causal` says what the mask does, none is held in the graph.
        """
        query, key, value = self.into(tokens).unflatten(2, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        dropout = self.dropout if self.training else 0.0
        mask = None if is_causal else attn_mask
        seen = functional.scaled_dot_product_attention(query, key, value, mask, dropout, is_causal)
        return self.out(seen.transpose(1, 2).flatten(2)), None

    @torch.no_grad()
    def keep(self, plain: nn.MultiheadAttention, kept: Tensor) -> None:
        """The queries, keys and values of the heads `kept` [h], and what `out` makes of these."""
        of_heads = _of_heads(kept, plain.num_heads)
        for ours, theirs in (
            (self.into.weight, plain.in_proj_weight),
            (self.into.bias, plain.in_proj_bias),
        ):
            ours.copy_(torch.cat([of_heads(part) for part in theirs.chunk(3)]))
        self.out.weight.copy_(of_heads(plain.out_proj.weight.T).T)
        self.out.bias.copy_(plain.out_proj.bias)


class LayerOfFewerHeads(TransformerLayer, AttentionForm):
    """A TransformerLayer of fewer heads, which have the width that they had."""

    def __init__(self, plain: TransformerLayer, model: Any, heads: int) -> None:
        require_heads(heads, plain.heads)
        dim, inner = plain.out.out_features, plain.out.in_features
        super().__init__(dim, heads, plain.dropout.p, head_width=inner // plain.heads)

    @torch.no_grad()
    def keep(self, plain: TransformerLayer, kept: Tensor) -> None:
        """The queries, keys and values of the heads `kept` [h], what `out` makes of these, and the rest."""
        of_heads = _of_heads(kept, plain.heads)
        for name in ("query", "key", "value"):
            ours, theirs = (cast(nn.Linear, getattr(layer, name)) for layer in (self, plain))
            ours.weight.copy_(of_heads(theirs.weight))
            ours.bias.copy_(of_heads(theirs.bias))
        self.out.weight.copy_(of_heads(plain.out.weight.T).T)
        self.out.bias.copy_(plain.out.bias)
        self.feed_forward.load_state_dict(plain.feed_forward.state_dict())
        self.norms.load_state_dict(plain.norms.state_dict())


HEADS: dict[str, type[Form]] = {
    "fewer_heads": FewerHeads,
    "layer_of_fewer_heads": LayerOfFewerHeads,
}
"""Every form of attention by its name in a description."""


def require_heads(heads: int, there: int) -> None:
    """Raise a ValueError unless `heads` of the heads `there` can stay."""
    if not 1 <= heads <= there:
        raise ValueError(f"{heads} heads cannot stay of {there}")


def _of_heads(kept: Tensor, heads: int) -> Callable[[Tensor], Tensor]:
    """Of rows [heads * w, ...] those of the heads `kept`."""
    return lambda rows: rows.unflatten(0, (heads, -1))[kept].flatten(0, 1)
