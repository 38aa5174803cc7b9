"""int8_tables and int8_dense: matrices in 8 bits, one scale a row; tables also with one a block of a row.

    symmetric     row ~ scale * q,          q in -127..127
    asymmetric    row ~ least + scale * q,  q in 0..255

The parts and their error are told in `leanrec/compression/rounding.py`. Both forms take the same bytes. The
asymmetric one costs a few nodes and pays where a row's numbers do not lie around zero: twice as exact where
all have one sign, and more where they lie close together. Blocks cost four bytes each.

A table's rows are restored after they are gathered. Dense weights have one row an output; they are restored
whole when the graph is loaded and multiplied in float32: fewer bytes to serve, no error in what flows through
the layers, and nothing that depends on who else shares the batch. For layers so small that rounding their
inputs takes longer than multiplying them, such as those of low_rank, that is quicker than int8_mlp, too.

Error, element by element, for a block of numbers divided by `columns`: |x - x'| <= columns * max|block| / 254
where symmetric, columns * ((max - min + 2^-10 * |min| of the block) / 510 + 2^-25) where not, for the scale
covers the span from the rounded least value; a half rounds the scale by 2^-10 of itself on top.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from leanrec.compression.method import (
    GraphMethod,
    Requests,
    float_constants,
    gathers_of_tables,
    require,
)
from leanrec.compression.rounding import RoundedMatrix, restore, round_asymmetric, round_symmetric
from leanrec.compression.storage import Nodes, Stored, store_dense, store_matrices
from leanrec.config.methods import Int8Tables

SYMMETRIC_LEVELS, ASYMMETRIC_LEVELS = 127, 255
SMALLEST = np.finfo(np.float16).smallest_subnormal
"""Of asymmetric scales. One that loses digits is rounded up, by no more than this."""


def quantize(matrix: np.ndarray, block: int = 0, symmetric: bool = True) -> RoundedMatrix:
    """`matrix` [N, D] float32 in 8 bits, `block` columns a scale (0: the whole row)."""
    if symmetric:
        return round_symmetric(matrix, SYMMETRIC_LEVELS, block)
    return round_asymmetric(matrix, ASYMMETRIC_LEVELS, block, smallest=SMALLEST)


def store(matrix: np.ndarray, block: int = 0, symmetric: bool = True) -> Stored:
    """What `quantize` makes of `matrix`, as it lies in a graph."""
    rounded = quantize(matrix, block, symmetric)
    return Stored(
        by_row={"int8": rounded.codes, **rounded.by_row()},
        shared=rounded.by_block() | rounded.by_column(),
        restore=_restore,
    )


def rewrite(graph: onnx.ModelProto, settings: Int8Tables, requests: Requests) -> onnx.ModelProto:
    """Store every gathered table in 8 bits and scale its rows after they are gathered."""
    tables = gathers_of_tables(graph.graph)
    require(tables, "int8_tables", "gathered table")
    values = {name: numpy_helper.to_array(tensor) for name, tensor in float_constants(graph.graph).items()}
    store_matrices(
        graph.graph, {name: store(values[name], settings.block, settings.symmetric) for name in tables}
    )
    return graph


def rewrite_dense(graph: onnx.ModelProto, settings: Any, requests: Requests) -> onnx.ModelProto:
    """Store every dense weight in 8 bits."""
    store_dense(graph.graph, "int8_dense", store)
    return graph


def _restore(nodes: Nodes, parts: dict[str, str]) -> str:
    return restore(nodes, parts["int8"], parts)


INT8_TABLES = GraphMethod(
    name="int8_tables",
    rewrite=rewrite,
)
INT8_DENSE = GraphMethod(
    name="int8_dense",
    rewrite=rewrite_dense,
)
