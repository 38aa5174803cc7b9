"""The parts that the retriever and the ranker share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leanrec.models.inputs import UserInputs, known_indices
from leanrec.schema import ModelSpec


class SparseArch(nn.Module):
    """Embedding tables of one width, looked up by feature.

    `tables` maps a table's name to its number of rows, `features` a feature's name to its table. Training
    puts a TorchRec module with the same `forward` in this one's place.

    Example:
        >>> sparse = SparseArch({"item": 10}, {"history": "item"}, dim=4)
        >>> sparse({"history": torch.zeros(2, 3, dtype=torch.long)})["history"].shape
        torch.Size([2, 3, 4])
    """

    def __init__(self, tables: dict[str, int], features: dict[str, str], dim: int) -> None:
        super().__init__()
        self.num_rows = dict(tables)
        self.features = dict(features)
        self.dim = dim
        self.tables = nn.ModuleDict({name: nn.Embedding(rows, dim) for name, rows in tables.items()})
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=dim**-0.5)

    def forward(self, indices: dict[str, Tensor]) -> dict[str, Tensor]:
        """Feature -> int64 indices of any shape [...]; answers feature -> vectors [..., dim]."""
        rows = {feature: self.num_rows[self.features[feature]] for feature in indices}
        known = known_indices(indices, rows)
        return {feature: self.tables[self.features[feature]](known[feature]) for feature in indices}


class Lookups(nn.Module):
    """What the user side and the item side of a model look up, the same in the retriever and the ranker."""

    spec: ModelSpec
    category_indices: Tensor
    """[N, G], 0 pads."""

    def user_indices(self, user: UserInputs) -> dict[str, Tensor]:
        """Feature -> indices of the user row: user and attributes [B, 1], history [B, H]."""
        indices = {"user": user.user_index, "history": user.history}
        for i in range(len(self.spec.attribute_cardinalities)):
            indices[f"attribute_{i}"] = user.user_attributes[:, i : i + 1]
        return indices

    def item_indices(self, item_index: Tensor) -> dict[str, Tensor]:
        """Feature -> indices of items [...]: item [...], category [..., G]."""
        return {"item": item_index, "category": self.category_indices[item_index]}

    def every_item(self) -> Tensor:
        """item_index of all items, [N]."""
        return torch.arange(self.spec.num_items, device=self.category_indices.device)


class MLP(nn.Sequential):
    """Linear layers with ReLU and dropout between them; the last one is followed by both as well."""

    def __init__(self, width: int, hidden: tuple[int, ...], dropout: float) -> None:
        layers: list[nn.Module] = []
        for narrower in hidden:
            layers += [nn.Linear(width, narrower), nn.ReLU(), nn.Dropout(dropout)]
            width = narrower
        super().__init__(*layers)
        self.width = width


class HistoryPooling(nn.Module):
    """The weighted mean of a user's history; recency and rating decide the weights, by what was learnt.

    weight of event e ~ exp(recency[age of e] + slope * (rating of e - liked threshold))
    """

    def __init__(self, history_length: int, liked_threshold: float) -> None:
        super().__init__()
        self.liked_threshold = liked_threshold
        self.recency = nn.Parameter(torch.linspace(0.0, -1.0, history_length))
        self.slope = nn.Parameter(torch.tensor(0.2))

    def forward(self, vectors: Tensor, history: Tensor, ratings: Tensor) -> Tensor:
        """Vectors [B, H, D] of the items in history [B, H], with their ratings; answers [B, D].

        A user with no known item in the history gets zeros.
        """
        present = (history != 0).to(vectors.dtype)
        length = (history != 0).sum(dim=1, keepdim=True)
        place = torch.arange(1, history.shape[1] + 1, device=history.device)
        age = (length - place).clamp(min=0)
        logit = self.recency[age] + self.slope * (ratings - self.liked_threshold)
        weight = torch.exp(logit.clamp(-15.0, 15.0)) * present
        total = weight.sum(dim=1, keepdim=True).clamp(min=1e-9)
        return torch.matmul((weight / total).unsqueeze(1), vectors).squeeze(1)


def mean_of_present(vectors: Tensor, indices: Tensor) -> Tensor:
    """The mean over the second last axis of vectors [..., G, D] whose index [..., G] is not 0."""
    present = (indices != 0).to(vectors.dtype)
    total = present.sum(dim=-1, keepdim=True).clamp(min=1.0)
    return torch.matmul((present / total).unsqueeze(-2), vectors).squeeze(-2)


def user_dense(statistics: Tensor, liked_threshold: float) -> Tensor:
    """The user's statistics [B, 3] on a scale of about one: log count, share liked, mean rating; [B, 3]."""
    events, liked, mean = statistics.split(1, dim=1)
    share = liked / events.clamp(min=1.0)
    above = torch.where(events > 0, mean - liked_threshold, 0.0)
    columns = [torch.log1p(events.clamp(min=0.0)) / 4.0, share, above]
    return torch.cat(columns, dim=1)


def item_dense(release_year: Tensor, statistics: Tensor) -> Tensor:
    """What is known of items besides their names, on a scale of about one; [..., 3].

    The year (when known, whether known) and the popularity. Mean ratings stay out: over training events they
    hold the very label that a training event asks for.
    """
    known = (release_year > 0).to(statistics.dtype)
    age = known * (release_year - 2000.0) / 20.0
    return torch.stack([age, known, torch.log1p(statistics[..., 0]) / 4.0], dim=-1)
