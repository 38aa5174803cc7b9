"""User rows of many events at once, as tensors: the training set's columns, padded to the served shapes.

The layout is that of `leanrec.schema.ModelSpec`: a history is padded with 0 at the end to H, `seen`
with 0 to the longest. A test holds it against the row that a client builds from the online store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from leanrec.errors import DataError
from leanrec.evaluation.metrics import Ints

Tensors = dict[str, npt.NDArray[np.generic]]
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


def read_user_rows(training_set: Path, rows: Ints, history_length: int) -> UserRows:
    """The user rows of the training set's `rows` (ascending); reads one row group at a time."""
    file = pq.ParquetFile(training_set)
    parts, start = [], 0
    for group in range(file.num_row_groups):
        end = start + file.metadata.row_group(group).num_rows
        inside = rows[np.searchsorted(rows, start) : np.searchsorted(rows, end)] - start
        if inside.size:
            parts.append(file.read_row_group(group, columns=list(ROW_COLUMNS)).take(pa.array(inside)))
        start = end
    table = pa.concat_tables(parts).combine_chunks()
    return UserRows(row=rows, tensors=_tensors(table, history_length))


def pad_lists(lists: Sequence[Ints]) -> Ints:
    """Lists of indices as one array [B, L], padded with 0 at the end; L is the longest, at least 1."""
    lengths = np.array([len(items) for items in lists])
    return _padded(np.concatenate(lists), lengths, max(1, int(lengths.max()))).astype(np.int64)


def _tensors(table: pa.Table, history_length: int) -> Tensors:
    widths = {"history": history_length, "history_ratings": history_length}
    tensors: Tensors = {"user_index": table["user_index"].to_numpy().astype(np.int64)[:, None]}
    for name in ROW_COLUMNS[1:]:
        column = table[name].combine_chunks()
        lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        width = widths.get(name, int(lengths.max(initial=0)))
        if name not in widths and (lengths != width).any():
            raise DataError(f"training set: {name} is not as long in each row; run build_training_set again")
        values = column.flatten().to_numpy(zero_copy_only=False)
        dtype = np.float32 if name in ("user_statistics", "history_ratings") else np.int64
        tensors[name] = _padded(values, lengths, width).astype(dtype)
    return tensors


def _padded(values: np.ndarray, lengths: Ints, width: int) -> np.ndarray:
    """Consecutive runs of `values`, the i-th of length `lengths[i]`, as rows [B, width] filled up with 0."""
    if lengths.size and lengths.max() > width:
        raise DataError(f"training set: a list holds {lengths.max()} values, the model takes {width}")
    padded = np.zeros((lengths.size, width), dtype=values.dtype)
    padded[np.arange(width) < lengths[:, None]] = values
    return padded
