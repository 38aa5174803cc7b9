"""What the models take: the user row, and the item table that a release carries inside itself.

Shapes: B users · H history length · A user attributes · S user statistics · N items · G an item's categories.
Index 0 is "unknown" and pads.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from leanrec.errors import DataError
from leanrec.schema import ITEM_STATISTICS

ITEM_COLUMNS = ("item_index", "category_indices", "release_year", *ITEM_STATISTICS)


class UserInputs(NamedTuple):
    """The user row of B users, as `ModelSpec.user_inputs` fixes it."""

    user_index: Tensor
    """[B, 1] int64."""
    user_attributes: Tensor
    """[B, A] int64."""
    user_statistics: Tensor
    """[B, S] float32: number of events, number liked, mean rating."""
    history: Tensor
    """[B, H] int64, oldest first, padded with 0 at the end."""
    history_ratings: Tensor
    """[B, H] float32."""


class ItemInputs(NamedTuple):
    """The item table as tensors; row i is item_index i."""

    category_indices: Tensor
    """[N, G] int64, padded with 0 at the end."""
    release_year: Tensor
    """[N] float32, 0 when unknown."""
    statistics: Tensor
    """[N, 3] float32: number of events, number liked, mean rating, over training events."""


def read_item_inputs(path: Path) -> ItemInputs:
    """The item table in `items.parquet` of a features folder.

    Raises a DataError when the file cannot be read, lacks a column or does not hold item_index 0, 1, 2, ...
    """
    try:
        table = pq.read_table(path, columns=list(ITEM_COLUMNS)).sort_by("item_index")
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{path}: not an item table of a features folder ({reason}); build it again"
        ) from None
    if table["item_index"].to_pylist() != list(range(table.num_rows)) or table.num_rows < 2:
        raise DataError(f"{path}: item_index must count 0, 1, 2, ... without a gap; build the features again")
    categories = [row or [] for row in table["category_indices"].to_pylist()]
    width = max(1, *(len(row) for row in categories))
    years = [float(year or 0) for year in table["release_year"].to_pylist()]
    statistics = [[float(value or 0) for value in table[name].to_pylist()] for name in ITEM_STATISTICS]
    return ItemInputs(
        category_indices=torch.tensor([row + [0] * (width - len(row)) for row in categories]).long(),
        release_year=torch.tensor(years),
        statistics=torch.tensor(statistics).T.contiguous(),
    )


def blank_items(num_items: int, num_categories: int) -> ItemInputs:
    """An item table of the right size [N, G], which the weights of a saved or another model then fill."""
    return ItemInputs(
        category_indices=torch.zeros(num_items, num_categories, dtype=torch.long),
        release_year=torch.zeros(num_items),
        statistics=torch.zeros(num_items, 3),
    )


def known_index(index: Tensor, cardinality: int | Tensor) -> Tensor:
    """`index` with everything outside 0..cardinality-1 turned into 0, the unknown index."""
    return torch.where(index < cardinality, index, 0).clamp(min=0)


def known_indices(indices: dict[str, Tensor], cardinalities: dict[str, int]) -> dict[str, Tensor]:
    """`known_index` of several features. Columns of one user row are checked together: fewer operators."""
    columns = [name for name, index in indices.items() if index.dim() == 2 and index.shape[1] == 1]
    row = [name for name in columns if indices[name].shape == indices[columns[0]].shape]
    known = {name: known_index(indices[name], cardinalities[name]) for name in indices if name not in row}
    if row:
        together = torch.cat([indices[name] for name in row], dim=1)
        limits = torch.tensor([cardinalities[name] for name in row], device=together.device)
        known |= zip(row, known_index(together, limits).split(1, dim=1), strict=True)
    return known
