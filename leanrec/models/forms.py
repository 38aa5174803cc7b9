"""Other forms of an embedding table and of a linear layer, which hold less than the plain ones.

A model is built plain, then `reform` puts forms into the places that its description names:

    {"dcn.sparse.tables.user": {"form": "quotient_remainder", "rows": 64}, "dcn.cross.layers.0": {...}}

A form of a table answers vectors for indices as nn.Embedding does; it is exported as a few gathers. `imitate`
fills it so that it answers what a plain weight would, as nearly as it can; fine-tuning does the rest.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from leanrec.errors import ExportError
from leanrec.models.form import Form
from leanrec.models.tables import TABLES

Description = dict[str, dict[str, Any]]
"""Path of a module -> its form's name (`form`) and sizes."""


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


FORMS: dict[str, type[Form]] = {
    "low_rank": LowRankLinear,
    "items_of_tower": ItemsOfTower,
    "items_of_features": ItemsOfFeatures,
    **TABLES,
}
"""Every form by its name in a description."""


def reform(model: nn.Module, description: Description) -> Description:
    """Put the forms of `description` into `model`, in place and still to be filled; answers `description`.

    Raises an ExportError when a form is not known.
    """
    for path, sizes in description.items():
        values = dict(sizes)
        form = FORMS.get(values.pop("form"))
        if form is None:
            raise ExportError(f"model.json: there is no form {sizes['form']!r}; known: {', '.join(FORMS)}")
        model.set_submodule(path, form(model.get_submodule(path), model, **values))
    return description
