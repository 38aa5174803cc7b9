"""int4_tables and int4_dense: matrices in 4 bits, asymmetric, one scale and one least value a block of a row.

    row ~ least + scale * q,  q in 0..15

The parts and their error are told in `leanrec/compression/rounding.py`; two values share a byte.

A table's rows are restored after they are gathered, with operators that every ONNX Runtime of opset 18 has.
Dense weights have one row an output; they are restored whole when the graph is loaded, so int4_dense saves
bytes that are served and shipped, but neither time nor memory.

Error: |x - x'| <= columns * scale / 2, and scale is a fifteenth of the block's span; element by element.
Source: block-wise 4-bit weights as in Dettmers and Zettlemoyer 2023 (arXiv:2212.09720).
"""

from __future__ import annotations

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
from leanrec.compression.rounding import RoundedMatrix, restore, round_asymmetric
from leanrec.compression.storage import Nodes, Stored, store_dense, store_matrices
from leanrec.config.methods import Int4Dense, Int4Tables

LEVELS = 15
SMALLEST = np.finfo(np.float16).smallest_normal
"""No scale is smaller: below it a half loses digits."""


def quantize(matrix: np.ndarray, block: int) -> RoundedMatrix:
    """`matrix` [N, D] float32 in 4 bits, `block` columns a scale (0: the whole row)."""
    return round_asymmetric(matrix, LEVELS, block, smallest=SMALLEST)


def store(matrix: np.ndarray, block: int) -> Stored:
    """What `quantize` makes of `matrix`, as it lies in a graph.

    Codes are packed, [N, ceil(D / 2)] uint8: the first half of a row in the low bits, the second in the high.
    """
    rounded = quantize(matrix, block)
    width = matrix.shape[1]
    first, second = np.split(np.pad(rounded.codes, ((0, 0), (0, width % 2))), 2, axis=1)
    unpacking = {"low": np.array(15, np.uint8), "shift": np.array(4, np.uint8)} | rounded.by_block()
    if width % 2:
        unpacking |= {"from": np.array([0]), "to": np.array([width]), "axis": np.array([-1])}
    return Stored(
        by_row={"int4": first | second << 4, **rounded.by_row()},
        shared=unpacking | rounded.by_column(),
        restore=_restore,
    )


def rewrite_tables(graph: onnx.ModelProto, settings: Int4Tables, requests: Requests) -> onnx.ModelProto:
    """Store every gathered table in 4 bits."""
    tables = gathers_of_tables(graph.graph)
    require(tables, "int4_tables", "gathered table")
    values = {name: numpy_helper.to_array(tensor) for name, tensor in float_constants(graph.graph).items()}
    store_matrices(graph.graph, {name: store(values[name], settings.block) for name in tables})
    return graph


def rewrite_dense(graph: onnx.ModelProto, settings: Int4Dense, requests: Requests) -> onnx.ModelProto:
    """Store every dense weight in 4 bits."""
    store_dense(graph.graph, "int4_dense", lambda weight: store(weight, settings.block))
    return graph


def _restore(nodes: Nodes, parts: dict[str, str]) -> str:
    low = nodes.add("BitwiseAnd", parts["int4"], parts["low"])
    high = nodes.add("BitShift", parts["int4"], parts["shift"], direction="RIGHT")
    codes = nodes.add("Concat", low, high, axis=-1)
    if "to" in parts:
        codes = nodes.add("Slice", codes, parts["from"], parts["to"], parts["axis"])
    return restore(nodes, codes, parts)


INT4_TABLES = GraphMethod(
    name="int4_tables",
    rewrite=rewrite_tables,
)
INT4_DENSE = GraphMethod(
    name="int4_dense",
    rewrite=rewrite_dense,
)
