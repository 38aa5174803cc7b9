"""What one weight takes in the form that a method gives it: arithmetic, held against real graphs by a test.

Each formula states the method's own file format; where data decides between two forms, the larger one counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from leanrec.compression.method import DENSE, TABLES
from leanrec.compression.methods.mixed_tables import num_hot
from leanrec.compression.methods.product_quantized_tables import CENTROIDS, num_codes, pays
from leanrec.compression.storage import bytes_of_places
from leanrec.compression.whole_tables import MAX_NUMBERS, MAX_ROWS
from leanrec.config.methods import Int4Tables, Int8Tables, MixedTables, ProductQuantizedTables


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
    restored_columns: int | None = None
    """Columns of its rows once restored, where those are more."""
    places: int = 0
    """Bytes besides that tell where the rows of the table went, of which these were left."""
    turned_from: str | None = None
    """Name of the table in the same graph whose rows are its columns."""

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
    return Footprint(served=4 * weight.size, resident=_restored(weight) or 4 * weight.size)


def _restored(weight: Weight) -> int | None:
    """Resident bytes of a small table, whose rows are restored when the graph is loaded; None for others.

    Of a factor whose product would be too large, the factor's own numbers are.
    """
    if weight.kind != TABLES or weight.rows > MAX_ROWS:
        return None
    product = weight.rows * (weight.restored_columns or weight.columns)
    return 4 * (product if product <= MAX_NUMBERS else weight.size)


def _half(weight: Weight, settings: Any) -> Footprint:
    """A dense weight is widened when the graph is loaded."""
    if weight.kind == DENSE:
        return Footprint(served=2 * weight.size, resident=as_float(weight).resident)
    return _table(weight, 2 * weight.size)


def _table(weight: Weight, held: int) -> Footprint:
    """A table in `held` bytes; a small one is restored when the graph is loaded."""
    return Footprint(served=held, resident=_restored(weight) or held)


def _int8_table(weight: Weight, settings: Int8Tables) -> Footprint:
    """A byte an element, and the parts of blocks; symmetric or not, a block's are as large."""
    return _table(weight, weight.size + _blocks(weight.rows, weight.columns, settings.block))


def _int8_dense(weight: Weight, settings: Any) -> Footprint:
    """Codes, and a scale and a zero point a column."""
    held = weight.size + 5 * weight.columns
    return Footprint(served=held, resident=held)


def _int8_restored(weight: Weight, settings: Any) -> Footprint:
    """As a table with a row an output; restored to float32 when the graph is loaded."""
    held = weight.size + 4 * weight.columns + 4 * weight.rows
    return Footprint(served=held, resident=as_float(weight).resident)


def _int4_table(weight: Weight, settings: Int4Tables) -> Footprint:
    """Two codes a byte, and the parts of blocks."""
    return _table(weight, _int4(weight.rows, weight.columns, settings.block))


def _product_quantized_table(weight: Weight, settings: ProductQuantizedTables) -> Footprint:
    """Codes and codebooks, or 8 bits where those would be no smaller.

    Codes of a small table are widened to places in the codebooks when the graph is loaded.
    """
    if not pays(weight.rows, weight.columns, settings):
        return _int8_table(weight, Int8Tables())
    codes = num_codes(weight.columns, settings.bits)
    codebooks = 4 * CENTROIDS * codes * -(-weight.columns // codes)
    held = weight.rows * codes + codebooks + 4 * codes + 4 * weight.columns + MORE_NODES
    widened = 4 * weight.rows * codes if weight.rows <= MAX_ROWS else 0
    return Footprint(served=held, resident=held + widened)


def _mixed_table(weight: Weight, settings: MixedTables) -> Footprint:
    """The most that any of its forms holds; one that takes more bytes than the widest is not chosen."""
    in_8_bits, in_4_bits = Int8Tables(), Int4Tables(block=settings.block)
    # Numbers beyond the range of a half begin in 8 bits.
    wide = [_half(weight, None), _int8_table(weight, in_8_bits)]
    narrow = [_int4_table(weight, in_4_bits)]
    hot = num_hot(weight.rows, settings)
    if hot:
        sides = [
            _int8_table(replace(weight, rows=hot), in_8_bits),
            _int4_table(replace(weight, rows=weight.rows - hot), in_4_bits),
        ]
        places = bytes_of_places(weight.rows, weight.rows - 1)
        narrow.append(
            Footprint(
                served=places + SPLIT_NODES + sum(side.served for side in sides),
                resident=places + sum(side.resident for side in sides),
            )
        )
    widest = max(form.served for form in wide)
    return Footprint(
        served=max(widest, *(min(form.served, widest + MORE_NODES + SPLIT_NODES) for form in narrow)),
        resident=max(form.resident for form in (*wide, *narrow)),
    )


def _int4_dense(weight: Weight, settings: Any) -> Footprint:
    """As a table with a row an output; restored to float32 when the graph is loaded."""
    return Footprint(
        served=_int4(weight.columns, weight.rows, settings.block), resident=as_float(weight).resident
    )


MORE_NODES = 300
"""Bytes of the nodes that unpack 4 bits, beyond those that other methods put into a graph."""

SPLIT_NODES = 1_100
"""Bytes of the nodes that look up hot and cold rows apart, beyond those that restore them."""


def _int4(rows: int, columns: int, block: int) -> int:
    return rows * -(-columns // 2) + _blocks(rows, columns, block) + MORE_NODES


def _blocks(rows: int, columns: int, block: int) -> int:
    """Scale (and least value) a block, four bytes; a scale a column (left out where that is no better).

    Where a row has several blocks, a column's block besides.
    """
    blocks = -(-columns // block) if block else 1
    return 4 * rows * blocks + 4 * columns + (4 * columns if blocks > 1 else 0)


FOOTPRINTS: dict[str, Callable[[Weight, Any], Footprint]] = {
    "fp16": _half,
    "bf16": _half,
    "int8_tables": _int8_table,
    "int8_mlp": _int8_dense,
    "int8_static": _int8_dense,
    "int4_tables": _int4_table,
    "mixed_tables": _mixed_table,
    "product_quantized_tables": _product_quantized_table,
    "int8_dense": _int8_restored,
    "int4_dense": _int4_dense,
}
"""Method on the graph -> the bytes of a weight that it rewrites, by the method's settings."""

STORED_ALIKE = {"int8_dense": "int8_tables", "int4_dense": "int4_tables"}
"""Method that stores a dense weight by its columns -> the one that stores a table's rows the same way."""

RESTORED_AT_LOAD = ("int8_dense", "int4_dense")
"""Methods whose weights are float32 again once the graph is loaded."""
