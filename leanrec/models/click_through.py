"""Click-through models over categorical fields: one value of each field in, the logit of a click out.

DCNv2 (Wang et al. 2021, arXiv:2008.13535) and DeepFM (Guo et al. 2017, arXiv:1703.04247), of the same parts
as the ranking models. All fields share one table, so that an impression is one lookup.

Shapes: B impressions · F fields · d = settings.dim.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from leanrec.config.click_through import ClickThroughSettings
from leanrec.models.layers import MLP
from leanrec.models.ranking.dcn_v2 import CrossNetwork
from leanrec.models.ranking.factorization_machine import PairwiseProducts

START_STD = 1e-4
"""Rows start almost alike, as is usual in click-through models: what is rare then says little."""


def start(layer: nn.Module) -> None:
    """Weights as wide as keeps the variance of a layer (Glorot and Bengio 2010), biases at zero.

    As click-through libraries start: with PyTorch's own start, which is narrower, a model takes an epoch more
    to its best AUC, and that was lower on impressions that are few for their table.
    """
    if isinstance(layer, nn.Linear):
        nn.init.xavier_normal_(layer.weight)
        nn.init.zeros_(layer.bias)


class ClickModel(nn.Module):
    """A table over all fields, and on its rows what a subclass makes of them: `logits`."""

    offsets: Tensor

    def __init__(self, cardinalities: Sequence[int], settings: ClickThroughSettings) -> None:
        """`cardinalities`: how many values each field has, F numbers."""
        super().__init__()
        self.cardinalities = tuple(cardinalities)
        sizes = torch.tensor([0, *self.cardinalities])
        self.register_buffer("offsets", sizes.cumsum(0)[:-1], persistent=False)
        self.table = nn.Parameter(torch.randn(sum(self.cardinalities), settings.dim) * START_STD)
        self.row_width = len(self.cardinalities) * settings.dim
        self.sparse_gradient = False
        """Whether the table's gradient holds the rows that were looked up, and not all of them."""

    def forward(self, fields: Tensor) -> Tensor:
        """Values [B, F] int64, each counted within its field; answers logits [B]."""
        return self.answer(fields + self.offsets)

    def answer(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The same from rows of the table [B, F]; `dtype` is what the network computes in."""
        if self.sparse_gradient:
            vectors = functional.embedding(rows, self.table, sparse=True)
        else:  # the gradient of index_select is added up three times faster than that of embedding
            vectors = self.table.index_select(0, rows.reshape(-1)).unflatten(0, rows.shape)
        return self.logits(vectors, vectors.flatten(1).to(dtype)).squeeze(1)

    @abstractmethod
    def logits(self, vectors: Tensor, row: Tensor) -> Tensor:
        """The fields' vectors [B, F, d], and the same side by side [B, F * d]; answers [B, 1]."""


class ClickDCNv2(ClickModel):
    """Cross network beside deep network."""

    def __init__(self, cardinalities: Sequence[int], settings: ClickThroughSettings) -> None:
        super().__init__(cardinalities, settings)
        self.cross = CrossNetwork(self.row_width, settings.cross_layers)
        self.deep = MLP(self.row_width, settings.hidden, settings.dropout)
        self.over = nn.Linear(self.row_width + self.deep.width, 1)
        self.apply(start)

    def logits(self, vectors: Tensor, row: Tensor) -> Tensor:
        """The fields' vectors [B, F, d], and the same side by side [B, F * d]; answers [B, 1]."""
        answered: Tensor = self.over(torch.cat([self.cross(row), self.deep(row)], dim=1))
        return answered


class ClickDeepFM(ClickModel):
    """Factorization machine beside deep network."""

    def __init__(self, cardinalities: Sequence[int], settings: ClickThroughSettings) -> None:
        super().__init__(cardinalities, settings)
        self.products = PairwiseProducts(0, settings.dim)
        self.deep = MLP(self.row_width, settings.hidden, settings.dropout)
        self.over = nn.Linear(self.row_width + settings.dim + self.deep.width, 1)
        self.apply(start)

    def logits(self, vectors: Tensor, row: Tensor) -> Tensor:
        """The fields' vectors [B, F, d], and the same side by side [B, F * d]; answers [B, 1]."""
        products = self.products(vectors, vectors.new_zeros(len(vectors), 0))
        answered: Tensor = self.over(torch.cat([row, products.to(row.dtype), self.deep(row)], dim=1))
        return answered


CLICK_MODELS: dict[str, type[ClickModel]] = {"dcn_v2": ClickDCNv2, "deep_fm": ClickDeepFM}
"""Name -> class; each is made as `cls(cardinalities, settings)`."""
