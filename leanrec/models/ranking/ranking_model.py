"""The contract of a ranking model, and what every one shares: the features of both sides and three heads.

Shapes: B users · C candidates · U width of the user's features · I width of an item's · d = settings.dim.
"""

from __future__ import annotations

from abc import abstractmethod

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
from leanrec.models.ranking.fields import Fields
from leanrec.models.ranking.tasks import TASKS, Heads
from leanrec.schema import USER_STATISTICS, ModelSpec

NUM_ITEM_NUMBERS = 3
"""Columns of `item_dense`."""


class RankingModel(Lookups):
    """Scores C candidates for each of B users. A subclass says how features interact: `logits`.

    The user's features are the vectors of the user, of his attributes and of his pooled history, and his
    statistics; an item's are its vector, the mean of its categories' vectors, and its dense features.
    `user_fields` and `item_fields` tell where each of them lies.
    """

    item_dense: Tensor
    over: nn.Linear
    """The last layer: what watch, like and rating add to their starting point. The subclass makes it."""

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
        self.user_vector_names = (*self.row_features, "history")
        self.item_vector_names = ("item", "categories")
        self.user_fields = Fields(
            dict.fromkeys(self.user_vector_names, settings.dim) | {"statistics": len(USER_STATISTICS)}
        )
        self.item_fields = Fields(
            dict.fromkeys(self.item_vector_names, settings.dim) | {"dense": NUM_ITEM_NUMBERS}
        )
        self.num_vectors = len(self.user_vector_names) + len(self.item_vector_names)
        self.num_numbers = len(USER_STATISTICS) + NUM_ITEM_NUMBERS + 1
        self.row_width = self.user_fields.width + self.item_fields.width + 2
        self.task = TASKS[settings.task](spec.liked_threshold)
        self.retrieval_weight = nn.Parameter(torch.ones(()), requires_grad=self.task.learns_watch)
        self.by_side: nn.Module | None = None
        self.register_buffer("category_indices", items.category_indices)
        self.register_buffer("item_dense", item_dense(items.release_year, items.statistics))

    @abstractmethod
    def logits(self, user_features: Tensor, item_features: Tensor, retrieval_score: Tensor) -> Tensor:
        """User features [B, U], item features [B, C, I], retrieval scores [B, C]; answers [B, C, 3].

        The three are what watch, like and rating add to their starting point (see `forward`).
        """

    def split_by_side(self) -> nn.Module | None:
        """`logits` for many candidates of few users: from the user's side of rows [B, U] and the item's side.

        None for a model that has no such arrangement.
        """
        return None

    @property
    def user_width(self) -> int:
        """U."""
        return self.user_fields.width

    @property
    def item_width(self) -> int:
        """I."""
        return self.item_fields.width

    @torch.no_grad()
    def start_from_retrieval(self, log_partition: float, temperature: float = 1.0) -> None:
        """Let P(watch) start as the retriever's own softmax; training then learns what is missing in it.

        `log_partition` is the mean log of that softmax's denominator, `temperature` its temperature: with
        both, retrieval scores become log-probabilities.
        """
        self.over.weight[0].zero_()
        self.over.bias[0] = -log_partition
        self.retrieval_weight.fill_(1.0 / temperature)

    def user_features(self, user: UserInputs) -> Tensor:
        """The SparseArch and DenseArch of the user side; [B, U]."""
        return self.user_arch(user, self.sparse(self.user_indices(user)))

    def item_features(self, item_index: Tensor | None = None) -> Tensor:
        """The same of the item side, for item_index [...] or for all N; [..., I]."""
        if item_index is None:
            item_index = self.every_item()
        return self.item_arch(item_index, self.sparse(self.item_indices(item_index)))

    def user_arch(self, user: UserInputs, vectors: dict[str, Tensor]) -> Tensor:
        """[B, U] from the user row and the vectors of `user_indices`."""
        history = known_index(user.history, self.spec.num_items)
        pooled = self.pooling(vectors["history"], history, user.history_ratings)
        row = torch.cat([vectors[name] for name in self.row_features], dim=2).squeeze(1)
        return torch.cat([row, pooled, user_dense(user.user_statistics, self.spec.liked_threshold)], dim=1)

    def item_arch(self, item_index: Tensor, vectors: dict[str, Tensor]) -> Tensor:
        """[..., I] from item_index [...] and the vectors of `item_indices`."""
        described = mean_of_present(vectors["category"], self.category_indices[item_index])
        return torch.cat([vectors["item"], described, self.item_dense[item_index]], dim=-1)

    def forward(self, user_features: Tensor, item_features: Tensor, retrieval_score: Tensor) -> Heads:
        """User features [B, U], item features [B, C, I], retrieval scores [B, C]; answers three [B, C]."""
        if self.by_side is not None:
            affinity = self.affinity_to_many(user_features, item_features)
            logits = self.by_side(user_features, self.item_side(item_features, affinity, retrieval_score))
        else:
            logits = self.logits(user_features, item_features, retrieval_score)
        watch, like, rating = logits.unbind(dim=2)
        watch = watch + self.retrieval_weight * retrieval_score
        heads: Heads = self.task(watch, like, rating + self.spec.liked_threshold)
        return heads

    def affinity(self, user_features: Tensor, item_features: Tensor) -> Tensor:
        """The dot product of the pooled history and the item, [B, C, 1]: InteractionArch."""
        pooled = self.user_fields.view(user_features, "history").unsqueeze(1)
        return (self.item_fields.view(item_features, "item") * pooled).sum(dim=2, keepdim=True)

    def affinity_to_many(self, user_features: Tensor, item_features: Tensor) -> Tensor:
        """The same as one product, which is quicker where users have many candidates and slower for few."""
        pooled = self.user_fields.view(user_features, "history")
        assert self.item_fields.places["item"].start == 0
        as_wide_as_items = nn.functional.pad(pooled, (0, self.item_width - pooled.shape[1]))
        return torch.matmul(item_features, as_wide_as_items.unsqueeze(2))

    def row(self, user_features: Tensor, item_features: Tensor, retrieval_score: Tensor) -> Tensor:
        """All features of a pair side by side, [B, C, row_width]: both sides', affinity, retrieval score."""
        wide = user_features.unsqueeze(1).expand(-1, item_features.shape[1], -1)
        affinity = self.affinity(user_features, item_features)
        return torch.cat([wide, self.item_side(item_features, affinity, retrieval_score)], dim=2)

    def item_side(self, item_features: Tensor, affinity: Tensor, retrieval_score: Tensor) -> Tensor:
        """What in a row differs between the candidates of a user, [B, C, row_width - U]."""
        return torch.cat([item_features, affinity, scaled(retrieval_score)], dim=2)

    def vectors(self, user_features: Tensor, item_features: Tensor) -> Tensor:
        """The features of a pair that are vectors, [B, C, num_vectors, d]."""
        user = self.user_fields.stack(user_features, self.user_vector_names)
        item = self.item_fields.stack(item_features, self.item_vector_names)
        return torch.cat([user.unsqueeze(1).expand(-1, item.shape[1], -1, -1), item], dim=2)

    def numbers(self, user_features: Tensor, item_features: Tensor, retrieval_score: Tensor) -> Tensor:
        """The features of a pair that are single numbers, [B, C, num_numbers]."""
        user = self.user_fields.view(user_features, "statistics").unsqueeze(1)
        item = self.item_fields.view(item_features, "dense")
        return torch.cat([user.expand(-1, item.shape[1], -1), item, scaled(retrieval_score)], dim=2)


def scaled(retrieval_score: Tensor) -> Tensor:
    """Retrieval scores [B, C] as a feature [B, C, 1], on a scale of about one."""
    return retrieval_score.unsqueeze(2) / 10.0
