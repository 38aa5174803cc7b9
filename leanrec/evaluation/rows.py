"""User rows of many events at once, as tensors, without holding the whole training set.

How a row becomes tensors is `leanrec.features.rows`' affair, the same for training and serving.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from leanrec.evaluation.metrics import Ints
from leanrec.features.rows import pad_lists, stack_table
from leanrec.schema import ModelSpec

Tensors = dict[str, np.ndarray]
"""Named tensors with one leading axis in common."""

ROW_COLUMNS = ("user_index", "user_attributes", "user_statistics", "history", "history_ratings")


@dataclass(frozen=True, kw_only=True, eq=False)
class UserRows:
    """User rows of some rows of the training set."""

    row: Ints
    """Their row numbers in the training set, ascending."""
    tensors: Tensors

    def take(self, rows: Ints) -> Tensors:
        """The tensors of the training set's `rows`, in that order."""
        places = np.searchsorted(self.row, rows)
        return {name: values[places] for name, values in self.tensors.items()}


def read_user_rows(training_set: Path, rows: Ints, spec: ModelSpec) -> UserRows:
    """The user rows of the training set's `rows` (ascending); reads one row group at a time."""
    file = pq.ParquetFile(training_set)
    parts, start = [], 0
    for group in range(file.num_row_groups):
        end = start + file.metadata.row_group(group).num_rows
        inside = rows[np.searchsorted(rows, start) : np.searchsorted(rows, end)] - start
        if inside.size:
            parts.append(file.read_row_group(group, columns=list(ROW_COLUMNS)).take(pa.array(inside)))
        start = end
    return UserRows(row=rows, tensors=stack_table(pa.concat_tables(parts), spec))


def stack_lists(lists: Sequence[Ints]) -> Ints:
    """Lists of indices as one array [B, L], padded with 0 at the end; L is the longest, at least 1."""
    offsets = np.cumsum([0, *(len(items) for items in lists)])
    return pad_lists(np.concatenate(lists).astype(np.int64), offsets, max(1, *np.diff(offsets).tolist()))
