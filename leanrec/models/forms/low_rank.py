"""A linear layer as two narrow ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leanrec.models.forms.form import Form


class LowRankLinear(Form):
    """x -> U (V x) + b, with V [rank, inputs] and U [outputs, rank]; filled by truncated SVD."""

    def __init__(self, plain: nn.Linear, model: nn.Module, rank: int) -> None:
        super().__init__()
        self.into = nn.Linear(plain.in_features, rank, bias=False)
        self.out = nn.Linear(rank, plain.out_features)

    def forward(self, values: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        out: Tensor = self.out(self.into(values))
        return out

    @torch.no_grad()
    def imitate(self, plain: nn.Linear) -> None:
        """The best approximation of `plain` of this rank (Eckart and Young 1936)."""
        u, s, v = torch.linalg.svd(plain.weight, full_matrices=False)
        rank = self.into.out_features
        self.into.weight.copy_(s[:rank, None].sqrt() * v[:rank])
        self.out.weight.copy_(u[:, :rank] * s[:rank].sqrt())
        self.out.bias.copy_(plain.bias)
