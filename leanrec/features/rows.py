"""User rows and the tensors they become: one conversion for training, evaluation and serving.

H history length · A user attributes (at least 1) · S user statistics · N seen items · B rows

The offline tables and the online store hold lists of any length; the graphs take fixed shapes.
`pad_lists` is the only place where one turns into the other, so what a model is served has the
shape and the order of what it was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from leanrec.schema import UNKNOWN_INDEX, USER_STATISTICS, ModelSpec

MIN_SEEN_WIDTH = 64
"""Least N. It doubles from there: requests of equal shape can share a batch in the server."""


@dataclass(frozen=True, kw_only=True, eq=False)
class UserRow:
    """What is known of a user; lists as stored, not padded.

    user_index is an int; user_attributes maps each attribute's name to its index; user_statistics
    (S) float32 in the order of `USER_STATISTICS`; history int64 and history_ratings float32, oldest
    first; seen int64.
    """

    user_index: int
    user_attributes: Mapping[str, int]
    user_statistics: np.ndarray
    history: np.ndarray
    history_ratings: np.ndarray
    seen: np.ndarray

    def tensors(self, spec: ModelSpec) -> dict[str, np.ndarray]:
        """The inputs of `recommender` for this user, a batch of one."""
        return stack_user_rows([self], spec)


def unknown_user() -> UserRow:
    """The row of somebody of whom nothing is known: index 0 everywhere, no past."""
    return UserRow(
        user_index=UNKNOWN_INDEX,
        user_attributes={},
        user_statistics=np.zeros(len(USER_STATISTICS), np.float32),
        history=np.zeros(0, np.int64),
        history_ratings=np.zeros(0, np.float32),
        seen=np.zeros(0, np.int64),
    )


def stack_user_rows(rows: Sequence[UserRow], spec: ModelSpec) -> dict[str, np.ndarray]:
    """The inputs of `recommender` for `rows`, a batch of len(rows).

    user_index (B, 1), user_attributes (B, A), user_statistics (B, S), history and
    history_ratings (B, H), seen (B, N). Indices younger than the model are unknown to it: 0. The
    model's attributes are taken by name, 0 where a row lacks one: the store may hold the attributes
    of another release than the one that is served.
    """
    names = tuple(spec.attribute_cardinalities)
    attributes = [[row.user_attributes.get(name, UNKNOWN_INDEX) for name in names] for row in rows]
    return _tensors(
        spec,
        user_index=np.array([row.user_index for row in rows], np.int64),
        user_attributes=np.array(attributes, np.int64).reshape(len(rows), len(names)),
        user_statistics=np.array([row.user_statistics for row in rows], np.float32),
        history=_joined([row.history for row in rows], np.int64),
        history_ratings=_joined([row.history_ratings for row in rows], np.float32),
        seen=_joined([row.seen for row in rows], np.int64),
    )


def stack_table(table: pa.Table, spec: ModelSpec) -> dict[str, np.ndarray]:
    """The user inputs of each row of a training set, shapes as `stack_user_rows` without `seen`.

    Its attributes are those of `spec`, in that order: both were made from one features folder.
    """
    num_attributes = len(spec.attribute_cardinalities)
    statistics, _ = _list_column(table, "user_statistics", np.float32)
    attributes, _ = _list_column(table, "user_attributes", np.int64)
    return _tensors(
        spec,
        user_index=table["user_index"].to_numpy().astype(np.int64),
        user_attributes=attributes.reshape(table.num_rows, num_attributes),
        user_statistics=statistics.reshape(table.num_rows, -1),
        history=_list_column(table, "history", np.int64),
        history_ratings=_list_column(table, "history_ratings", np.float32),
    )


def pad_lists(values: np.ndarray, offsets: np.ndarray, width: int) -> np.ndarray:
    """The lists values[offsets[i]:offsets[i + 1]] as (rows, width): the last `width` of each, then zeros."""
    starts = np.maximum(offsets[:-1], offsets[1:] - width)
    lengths = offsets[1:] - starts
    columns = np.arange(width)
    filled = columns < lengths[:, None]
    padded = np.zeros((len(lengths), width), values.dtype)
    padded[filled] = values[(starts[:, None] + columns)[filled]]
    return padded


Lists = tuple[np.ndarray, np.ndarray]
"""Lists of several rows: their values one after another, and the offsets where each begins."""


def _tensors(
    spec: ModelSpec,
    *,
    user_index: np.ndarray,
    user_attributes: np.ndarray,
    user_statistics: np.ndarray,
    history: Lists,
    history_ratings: Lists,
    seen: Lists | None = None,
) -> dict[str, np.ndarray]:
    num_rows, num_attributes = user_attributes.shape
    cardinalities = np.array(list(spec.attribute_cardinalities.values()), np.int64)
    attributes = np.full((num_rows, spec.num_attribute_columns), UNKNOWN_INDEX, np.int64)
    attributes[:, :num_attributes] = _known(user_attributes, cardinalities)
    tensors = {
        "user_index": _known(user_index, spec.num_users)[:, None],
        "user_attributes": attributes,
        "user_statistics": user_statistics,
        "history": _known(pad_lists(*history, spec.history_length), spec.num_items),
        "history_ratings": pad_lists(*history_ratings, spec.history_length),
    }
    if seen is not None:
        longest = int(np.diff(seen[1]).max(initial=0))
        tensors["seen"] = _known(pad_lists(*seen, _seen_width(longest)), spec.num_items)
    return tensors


def _known(indices: np.ndarray, cardinality: int | np.ndarray) -> np.ndarray:
    return np.where(indices < cardinality, indices, UNKNOWN_INDEX)


def _seen_width(longest: int) -> int:
    width = MIN_SEEN_WIDTH
    while width < longest:
        width *= 2
    return width


def _joined(lists: list[np.ndarray], dtype: type) -> Lists:
    offsets = np.zeros(len(lists) + 1, np.int64)
    np.cumsum([len(values) for values in lists], out=offsets[1:])
    return np.concatenate([np.zeros(0, dtype), *lists]).astype(dtype, copy=False), offsets


def _list_column(table: pa.Table, name: str, dtype: type) -> Lists:
    column = table[name].combine_chunks()
    lengths = pc.fill_null(column.value_lengths(), 0).to_numpy()
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return column.flatten().to_numpy(zero_copy_only=False).astype(dtype, copy=False), offsets
