"""Item tables that are looked up where the served graph holds their numbers anyway."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from leanrec.models.forms.form import Form


class ItemsOfTower(Form):
    """The retriever's history, looked up in the other tower's item vectors through a learnt [D, D]."""

    def __init__(self, plain: nn.Embedding, model: Any) -> None:
        super().__init__()
        self.turn = nn.Linear(plain.embedding_dim, plain.embedding_dim, bias=False)
        self.model = [model]  # in a list, or it would count as a part of this module

    def forward(self, index: Tensor) -> Tensor:
        """Item indices [...] to [..., D]."""
        (model,) = self.model
        if not model.frozen:  # there are fewer items than history entries in a batch: turn them first
            return functional.embedding(index, self.turn(model.retriever.item_vectors()))
        vectors = model.item_vectors
        turned: Tensor = self.turn(functional.embedding(index, vectors))
        return turned

    @torch.no_grad()
    def imitate(self, plain: nn.Embedding) -> None:
        """Least squares over all items but the unknown one."""
        vectors = self.model[0].retriever.item_vectors()[1:].double()
        self.turn.weight.copy_(torch.linalg.lstsq(vectors, plain.weight[1:].double()).solution.T)


class ItemsOfFeatures(Form):
    """The ranker's history, looked up where the served graph holds the same numbers: in the item features."""

    def __init__(self, plain: nn.Embedding, model: Any) -> None:
        super().__init__()
        self.table = nn.Embedding(plain.num_embeddings, plain.embedding_dim)
        self.model = [model]

    def forward(self, index: Tensor) -> Tensor:
        """Item indices [...] to [..., D]."""
        (model,) = self.model
        if not model.frozen:
            trained: Tensor = self.table(index)
            return trained
        served: Tensor = model.item_features[index][..., : self.table.embedding_dim]
        return served

    @torch.no_grad()
    def imitate(self, plain: nn.Embedding) -> None:
        """Exactly."""
        self.table.weight.copy_(plain.weight)
