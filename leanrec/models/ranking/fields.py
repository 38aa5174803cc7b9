"""Where each named field lies in a row of flat features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class Fields:
    """Named fields side by side in the last axis of a tensor.

    Example:
        >>> fields = Fields({"user": 4, "gender": 4, "statistics": 3})
        >>> row = torch.arange(22.0).reshape(2, 11)
        >>> fields.view(row, "statistics").tolist()
        [[8.0, 9.0, 10.0], [19.0, 20.0, 21.0]]
        >>> fields.stack(row, ["user", "gender"]).shape
        torch.Size([2, 2, 4])
    """

    def __init__(self, widths: Mapping[str, int]) -> None:
        self.places: dict[str, slice] = {}
        self.width = 0
        for name, width in widths.items():
            self.places[name] = slice(self.width, self.width + width)
            self.width += width

    def view(self, row: Tensor, name: str) -> Tensor:
        """One field of rows [..., width]; [..., width of the field]."""
        return row[..., self.places[name]]

    def stack(self, row: Tensor, names: Sequence[str]) -> Tensor:
        """Fields of one width d of rows [..., width], as [..., fields, d]."""
        return torch.stack([self.view(row, name) for name in names], dim=-2)
