"""Training examples: the rows of the training set as tensors."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import scipy.sparse as sp
import torch
from torch import Tensor

from leanrec.errors import TrainingError
from leanrec.features.rows import stack_table
from leanrec.models.inputs import UserInputs
from leanrec.schema import USER_STATISTICS, ModelSpec

TRAIN = "train"
VALID = "valid"
COLUMNS = (
    "user_index",
    "user_attributes",
    "user_statistics",
    "history",
    "history_ratings",
    "item_index",
    "rating",
    "liked",
    "split",
    "event_timestamp",
)


class Examples(NamedTuple):
    """Events with the user row as it was just before each; E events."""

    user: UserInputs
    """The user rows, E of them."""
    item_index: Tensor
    """[E] int64."""
    rating: Tensor
    """[E] float32."""
    liked: Tensor
    """[E] float32, 0 or 1."""

    def __len__(self) -> int:
        return int(self.item_index.shape[0])

    def num_events_at(self, rows: Tensor) -> int:
        """Events in these rows."""
        return len(rows)

    @property
    def seen(self) -> Tensor:
        """[E, H]: items that cannot be what was not taken up, for the user had them already."""
        return self.user.history

    def take(self, rows: Tensor) -> Examples:
        """The events at `rows`."""
        user = UserInputs(*(tensor[rows] for tensor in self.user))
        return Examples(user, self.item_index[rows], self.rating[rows], self.liked[rows])

    def to(self, device: torch.device) -> Examples:
        """The same events on `device`."""
        user = UserInputs(*(tensor.to(device) for tensor in self.user))
        return Examples(user, *(tensor.to(device) for tensor in self[1:]))


def read_examples(path: Path, split: str, spec: ModelSpec) -> Examples:
    """The events of one split, in the order of time.

    Raises a TrainingError when the file cannot be read, lacks a column, does not fit `spec`, or has no
    event in the split.
    """
    table = _read_table(Path(path))
    table = table.filter(pc.equal(table["split"], split)).sort_by("event_timestamp")
    if table.num_rows == 0:
        raise TrainingError(
            f"{path}: no event in split {split!r}; lower the held-out fractions or add events"
        )
    _refuse_misfits(path, table, spec)
    rows = stack_table(table, spec)
    examples = Examples(
        UserInputs(*(torch.tensor(rows[name]) for name in UserInputs._fields)),
        torch.tensor(_numbers(table, "item_index", np.int64)),
        torch.tensor(_numbers(table, "rating", np.float32)),
        torch.tensor(_numbers(table, "liked", np.float32)),
    )
    _refuse_what_is_no_number(path, examples)
    return examples


def first_row_of_each_user(examples: Examples) -> Tensor:
    """The row of each user's first event, by rising user index."""
    user = examples.user.user_index.squeeze(1)
    rows = torch.full((int(user.max()) + 1,), len(examples))
    rows = rows.scatter_reduce(0, user, torch.arange(len(examples)), "amin")
    return rows[rows < len(examples)]


def interactions_of(examples: Examples, spec: ModelSpec, disliked_weight: float) -> sp.csr_matrix:
    """Users x items [num_users, num_items]: 1 where an event was liked, `disliked_weight` where none was.

    Row and column 0, the unknown ones, are empty.
    """
    user, item = examples.user.user_index.squeeze(1).numpy(), examples.item_index.numpy()
    strength = np.where(examples.liked.numpy() > 0, 1.0, disliked_weight).astype(np.float32)
    known = (user > 0) & (item > 0) & (strength > 0)
    shape = (spec.num_users, spec.num_items)
    # Of several events with one item the strongest counts.
    order = np.lexsort((strength, item, user))[::-1]
    user, item, strength = user[order][known[order]], item[order][known[order]], strength[order][known[order]]
    _, first = np.unique(user * np.int64(spec.num_items) + item, return_index=True)
    return sp.csr_matrix((strength[first], (user[first], item[first])), shape=shape)


def popularity_of(examples: Examples, num_items: int) -> Tensor:
    """Events of each item, [num_items] float32."""
    return torch.bincount(examples.item_index.cpu(), minlength=num_items).float()


def _read_table(path: Path) -> pa.Table:
    try:
        names = set(pq.read_schema(path).names)
        missing = [name for name in COLUMNS if name not in names]
        if missing:
            raise TrainingError(
                f"{path}: column {missing[0]!r} is missing; build the training set again (build_training_set)"
            )
        return pq.read_table(path, columns=list(COLUMNS))
    except (OSError, pa.ArrowInvalid) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"{path}: not a training set ({reason}); build it again") from None


def _numbers(table: pa.Table, name: str, dtype: type) -> np.ndarray:
    column = table[name].combine_chunks()
    return np.ascontiguousarray(column.cast(pa.from_numpy_dtype(dtype)).to_numpy(zero_copy_only=False))


def _refuse_misfits(path: Path, table: pa.Table, spec: ModelSpec) -> None:
    """`stack_table` cuts long lists and takes young indices for unknown; a training set has neither."""
    for name, width, exact in (
        ("user_attributes", len(spec.attribute_cardinalities), True),
        ("user_statistics", len(USER_STATISTICS), True),
        ("history", spec.history_length, False),
        ("history_ratings", spec.history_length, False),
    ):
        lengths = pc.min_max(pc.fill_null(pc.list_value_length(table[name]), 0)).as_py()
        if lengths["max"] > width or (exact and lengths["min"] < width):
            raise TrainingError(
                f"{path}: column {name!r} must hold lists of {'exactly' if exact else 'at most'} {width} "
                f"values, one has {lengths['max'] if lengths['max'] > width else lengths['min']}; "
                "build the training set again"
            )
    for name, values, cardinality in (
        ("item_index", table["item_index"], spec.num_items),
        ("user_index", table["user_index"], spec.num_users),
        ("history", pc.list_flatten(table["history"]), spec.num_items),
    ):
        found = pc.min_max(values).as_py()
        if found["min"] is not None and (found["min"] < 0 or found["max"] >= cardinality):
            raise TrainingError(
                f"{path}: column {name!r} must lie in 0..{cardinality - 1}, it has "
                f"{found['min']}..{found['max']}; build features and training set from the same events"
            )


def _refuse_what_is_no_number(path: Path, examples: Examples) -> None:
    if not bool(torch.isfinite(examples.rating).all()):
        raise TrainingError(
            f"{path}: column 'rating' has values that are not numbers; validate the events again"
        )
    if not bool(torch.isfinite(examples.user.user_statistics).all()):
        raise TrainingError(
            f"{path}: column 'user_statistics' has values that are not numbers; build it again"
        )
