"""What one weight takes in the form that a method gives it: arithmetic, held against real graphs by a test.

Each formula states the method's own file format; where data decides between two forms, the larger one counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from leanrec.compression.method import DENSE, TABLES

OTHER = "other"
"""A matrix that no method rewrites."""


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A matrix of a graph: `rows` are gathered (tables) or summed over (dense)."""

    name: str
    rows: int
    columns: int
    kind: str
    """`TABLES`, `DENSE` or `OTHER`."""
    copies: int = 1
    """In how many graphs of the release it lies."""

    @property
    def size(self) -> int:
        """Elements."""
        return self.rows * self.columns


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes of one weight in one graph."""

    served: int
    resident: int


def _float(weight: Weight) -> Footprint:
    return Footprint(served=4 * weight.size, resident=4 * weight.size)


def _half(weight: Weight) -> Footprint:
    """A dense weight is widened when the graph is loaded; a table's rows are, after they are gathered."""
    resident = (4 if weight.kind == DENSE else 2) * weight.size
    return Footprint(served=2 * weight.size, resident=resident)


def _int8_table(weight: Weight) -> Footprint:
    """Codes, a scale a row, and a scale a column (left out where that is no better)."""
    held = weight.size + 4 * weight.rows + 4 * weight.columns
    return Footprint(served=held, resident=held)


def _int8_dense(weight: Weight) -> Footprint:
    """Codes, and a scale and a zero point a column."""
    held = weight.size + 5 * weight.columns
    return Footprint(served=held, resident=held)


FLOAT: Callable[[Weight], Footprint] = _float

FOOTPRINTS: dict[str, tuple[frozenset[str], Callable[[Weight], Footprint]]] = {
    "fp16": (frozenset({TABLES, DENSE}), _half),
    "int8_tables": (frozenset({TABLES}), _int8_table),
    "int8_mlp": (frozenset({DENSE}), _int8_dense),
}
"""Method -> the kinds of weights it rewrites, and their bytes. Of one that is not here, training decides."""
