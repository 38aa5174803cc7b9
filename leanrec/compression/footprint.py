"""What one weight takes in the form that a method gives it: arithmetic, held against real graphs by a test.

Each formula states the method's own file format; where data decides between two forms, the larger one counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from leanrec.compression.method import DENSE
from leanrec.compression.methods.product_quantized_tables import CENTROIDS, num_codes, pays
from leanrec.compression.whole_tables import MAX_ROWS


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A matrix of a graph: `rows` are gathered (tables) or summed over (dense)."""

    name: str
    rows: int
    columns: int
    kind: str
    """`TABLES` or `DENSE`."""
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


def as_float(weight: Weight) -> Footprint:
    """Four bytes an element."""
    return Footprint(served=4 * weight.size, resident=4 * weight.size)


def _half(weight: Weight, settings: Any) -> Footprint:
    """A dense weight is widened when the graph is loaded."""
    if weight.kind == DENSE:
        return Footprint(served=2 * weight.size, resident=as_float(weight).resident)
    return _table(weight, 2 * weight.size)


def _table(weight: Weight, held: int) -> Footprint:
    """A table in `held` bytes; a small one is restored when the graph is loaded."""
    small = weight.rows <= MAX_ROWS
    return Footprint(served=held, resident=as_float(weight).resident if small else held)


def _int8_table(weight: Weight, settings: Any) -> Footprint:
    """Codes, a scale a row, and a scale a column (left out where that is no better)."""
    return _table(weight, weight.size + 4 * weight.rows + 4 * weight.columns)


def _int8_dense(weight: Weight, settings: Any) -> Footprint:
    """Codes, and a scale and a zero point a column."""
    held = weight.size + 5 * weight.columns
    return Footprint(served=held, resident=held)


def _int8_restored(weight: Weight, settings: Any) -> Footprint:
    """As a table with a row an output; restored to float32 when the graph is loaded."""
    held = weight.size + 4 * weight.columns + 4 * weight.rows
    return Footprint(served=held, resident=as_float(weight).resident)


def _int4_table(weight: Weight, settings: Any) -> Footprint:
    """Two codes a byte, half-precision scale and least value a block, a scale a column, a column's block."""
    return _table(weight, _int4(weight.rows, weight.columns, settings.block))


def _product_quantized_table(weight: Weight, settings: Any) -> Footprint:
    """Codes and codebooks, or 8 bits where those would be no smaller."""
    if not pays(weight.rows, weight.columns, settings):
        return _int8_table(weight, settings)
    codes = num_codes(weight.columns, settings.bits)
    codebooks = 4 * CENTROIDS * codes * -(-weight.columns // codes)
    held = weight.rows * codes + codebooks + 4 * codes + 4 * weight.columns + MORE_NODES
    return Footprint(served=held, resident=held)


def _int4_dense(weight: Weight, settings: Any) -> Footprint:
    """As a table with a row an output; restored to float32 when the graph is loaded."""
    return Footprint(
        served=_int4(weight.columns, weight.rows, settings.block), resident=as_float(weight).resident
    )


MORE_NODES = 300
"""Bytes of the nodes that unpack 4 bits, beyond those that other methods put into a graph."""


def _int4(rows: int, columns: int, block: int) -> int:
    blocks = -(-columns // block) if block else 1
    return (
        rows * (-(-columns // 2) + 4 * blocks) + 4 * columns + (4 * columns if blocks > 1 else 0) + MORE_NODES
    )


FOOTPRINTS: dict[str, Callable[[Weight, Any], Footprint]] = {
    "fp16": _half,
    "bf16": _half,
    "int8_tables": _int8_table,
    "int8_mlp": _int8_dense,
    "int8_static": _int8_dense,
    "int4_tables": _int4_table,
    "product_quantized_tables": _product_quantized_table,
    "int8_dense": _int8_restored,
    "int4_dense": _int4_dense,
}
"""Method on the graph -> the bytes of a weight that it rewrites, by the method's settings."""

RESTORED_AT_LOAD = ("int8_dense", "int4_dense")
"""Methods whose weights are float32 again once the graph is loaded."""
