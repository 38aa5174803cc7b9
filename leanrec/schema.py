"""The tables and tensors that LeanRec's rooms agree on.

Tables (Parquet, ids are strings, user ids are pseudonyms):

    events   event_id, user_id, item_id, timestamp (UTC, microseconds), rating
    items    item_id, title, categories (list of strings), release_year (may be null)
    users    user_id and one string column for each attribute in `data.user_attributes`

Tensors of the served graphs, shapes without the batch axis B:

    H history length · A user attributes · S user statistics · N seen items · C candidates · K top-k

An index counts within an append-only vocabulary; 0 is "unknown" and pads.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

UNKNOWN_INDEX = 0

EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
"""No event is older: such a time comes of a clock that was never set, or of a wrong unit."""

EVENTS = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("timestamp", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("rating", pa.float32(), nullable=False),
    ]
)

ITEMS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("categories", pa.list_(pa.string()), nullable=False),
        pa.field("release_year", pa.int32(), nullable=True),
    ]
)


def users_schema(user_attributes: tuple[str, ...]) -> pa.Schema:
    """The users table's schema for the attributes that the configuration names."""
    fields = [pa.field("user_id", pa.string(), nullable=False)]
    fields += [pa.field(name, pa.string(), nullable=True) for name in user_attributes]
    return pa.schema(fields)


USER_STATISTICS = ("num_events", "num_liked", "mean_rating")
"""What `user_statistics` holds, in this order, as float32: two counts and a mean (0 when no events)."""

ITEM_STATISTICS = ("num_events", "num_liked", "mean_rating")
"""What the item table holds of each item's past, in this order."""

RECOMMENDER = "recommender"
RANKER = "ranker"
MODELS = (RECOMMENDER, RANKER)
"""The two models of a release, as Triton knows them."""

USER_ROW = "user_row"
"""Feast's feature service of the online user row, which a release's requests are built from."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """A served tensor: its name, Triton data type and shape without the batch axis (-1: varies)."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Everything that fixes the shapes of a model and of its tensors.

    Cardinalities count the unknown index 0.
    """

    num_users: int
    num_items: int
    num_categories: int
    attribute_cardinalities: dict[str, int]
    history_length: int
    top_k: int
    liked_threshold: float

    @property
    def num_attribute_columns(self) -> int:
        """A, the width of `user_attributes`: a column for each attribute, in their order.

        A server takes no empty tensor, so a model without attributes has one column, which is always 0.
        """
        return max(1, len(self.attribute_cardinalities))

    def user_inputs(self) -> tuple[TensorSpec, ...]:
        """The user row, as both graphs take it."""
        return (
            TensorSpec(name="user_index", dtype="INT64", shape=(1,)),
            TensorSpec(name="user_attributes", dtype="INT64", shape=(self.num_attribute_columns,)),
            TensorSpec(name="user_statistics", dtype="FP32", shape=(len(USER_STATISTICS),)),
            TensorSpec(name="history", dtype="INT64", shape=(self.history_length,)),
            TensorSpec(name="history_ratings", dtype="FP32", shape=(self.history_length,)),
        )

    def inputs(self, model: str) -> tuple[TensorSpec, ...]:
        """The inputs of `recommender` (user row, seen items) or `ranker` (user row, candidates)."""
        last = "seen" if model == RECOMMENDER else "candidates"
        return (*self.user_inputs(), TensorSpec(name=last, dtype="INT64", shape=(-1,)))

    def outputs(self, model: str) -> tuple[TensorSpec, ...]:
        """`recommender` answers the top K, best first; `ranker` answers every candidate in order.

        score: P(watch) * P(like), what lists are ordered by; like: P(rating >= liked_threshold);
        rating: the expected rating.
        """
        if model == RECOMMENDER:
            return (
                TensorSpec(name="item_index", dtype="INT64", shape=(self.top_k,)),
                TensorSpec(name="score", dtype="FP32", shape=(self.top_k,)),
            )
        return tuple(TensorSpec(name=name, dtype="FP32", shape=(-1,)) for name in ("score", "like", "rating"))
