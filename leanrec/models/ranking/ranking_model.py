"""The contract of a ranking model, and what every one shares: the features of both sides and three heads.

Heads: watch (does the user take the item up at all), like (given that he does, is the rating at least the
liked threshold), rating (how many stars). As in ESMM (Ma et al. 2018, arXiv:1804.07931) lists are ordered by
P(watch) * P(like): the probability that the user watches and likes.

Shapes: B users · C candidates · U width of the user's features · I width of an item's · d = settings.dim.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from leanrec.config import RankerSettings
from leanrec.models.inputs import ItemInputs, UserInputs, known_index
from leanrec.models.layers import (
    HistoryPooling,
    Lookups,
    SparseArch,
    item_dense,
    mean_of_present,
    user_dense,
)
from leanrec.schema import USER_STATISTICS, ModelSpec


class Heads(NamedTuple):
    """What a ranking model says of candidates; each [B, C]."""

    watch: Tensor
    """Logit of P(the user takes the item up)."""
    like: Tensor
    """Logit of P(rating >= liked threshold | taken up)."""
    rating: Tensor
    """Expected rating."""

    def score(self) -> Tensor:
        """P(watch) * P(like), [B, C] in 0..1."""
        return torch.sigmoid(self.watch) * torch.sigmoid(self.like)


class RankingModel(Lookups):
    """Scores C candidates for each of B users. A subclass says how features interact: `logits`.

    The user's features are the vectors of the user, of his attributes and of his pooled history, and his
    statistics; an item's are its vector, the mean of its categories' vectors, and its dense features.
    """

    item_dense: Tensor

    def __init__(self, spec: ModelSpec, settings: RankerSettings, items: ItemInputs) -> None:
        super().__init__()
        self.spec = spec
        attributes = {f"attribute_{i}": n for i, n in enumerate(spec.attribute_cardinalities.values())}
        tables = {
            "user": spec.num_users,
            "item": spec.num_items,
            "category": spec.num_categories,
            **attributes,
        }
        self.row_features = ("user", *attributes)
        features = {name: name for name in tables} | {"history": "item"}
        self.sparse = SparseArch(tables, features, settings.dim)
        self.pooling = HistoryPooling(spec.history_length, spec.liked_threshold)
        self.user_width = settings.dim * (2 + len(attributes)) + len(USER_STATISTICS)
        self.item_width = settings.dim * 2 + 3
        self.retrieval_weight = nn.Parameter(torch.ones(()))
        self.register_buffer("category_indices", items.category_indices)
        self.register_buffer("item_dense", item_dense(items.release_year, items.statistics))

    @abstractmethod
    def logits(self, user_features: Tensor, item_features: Tensor, retrieval_score: Tensor) -> Tensor:
        """User features [B, U], item features [B, C, I], retrieval scores [B, C]; answers [B, C, 3].

        The three are what watch, like and rating add to their starting point (see `forward`).
        """

    @abstractmethod
    def watch_layer(self) -> nn.Linear:
        """The last layer, whose row 0 gives the watch logit."""

    @torch.no_grad()
    def start_from_retrieval(self, log_partition: float, temperature: float = 1.0) -> None:
        """Let P(watch) start as the retriever's own softmax; training then learns what is missing in it.

        `log_partition` is the mean log of that softmax's denominator, `temperature` its temperature: with
        both, retrieval scores become log-probabilities.
        """
        layer = self.watch_layer()
        layer.weight[0].zero_()
        layer.bias[0] = -log_partition
        self.retrieval_weight.fill_(1.0 / temperature)

    def user_features(self, user: UserInputs) -> Tensor:
        """The SparseArch and DenseArch of the user side; [B, user_width]."""
        return self.user_arch(user, self.sparse(self.user_indices(user)))

    def item_features(self, item_index: Tensor | None = None) -> Tensor:
        """The same of the item side, for item_index [...] or for all N; [..., item_width]."""
        if item_index is None:
            item_index = torch.arange(self.spec.num_items, device=self.category_indices.device)
        return self.item_arch(item_index, self.sparse(self.item_indices(item_index)))

    def user_arch(self, user: UserInputs, vectors: dict[str, Tensor]) -> Tensor:
        """[B, user_width] from the user row and the vectors of `user_indices`."""
        history = known_index(user.history, self.spec.num_items)
        pooled = self.pooling(vectors["history"], history, user.history_ratings)
        row = [vectors[name].squeeze(1) for name in self.row_features]
        return torch.cat([*row, pooled, user_dense(user.user_statistics, self.spec.liked_threshold)], dim=1)

    def item_arch(self, item_index: Tensor, vectors: dict[str, Tensor]) -> Tensor:
        """[..., item_width] from item_index [...] and the vectors of `item_indices`."""
        described = mean_of_present(vectors["category"], self.category_indices[item_index])
        return torch.cat([vectors["item"], described, self.item_dense[item_index]], dim=-1)

    def forward(self, user_features: Tensor, item_features: Tensor, retrieval_score: Tensor) -> Heads:
        """User features [B, U], item features [B, C, I], retrieval scores [B, C]; answers three [B, C]."""
        watch, like, rating = self.logits(user_features, item_features, retrieval_score).unbind(dim=2)
        watch = watch + self.retrieval_weight * retrieval_score
        return Heads(watch, like, rating + self.spec.liked_threshold)

    def affinity(self, user_features: Tensor, item_features: Tensor) -> Tensor:
        """The dot product of the pooled history and the item, [B, C, 1]: InteractionArch."""
        dim = self.sparse.dim
        pooled = user_features[:, self.user_width - dim - len(USER_STATISTICS) : -len(USER_STATISTICS)]
        return (item_features[:, :, :dim] * pooled.unsqueeze(1)).sum(dim=2, keepdim=True)
