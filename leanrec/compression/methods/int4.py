"""int4_tables and int4_dense: matrices in 4 bits, asymmetric, one scale and one least value a block of a row.

    x ~ columns * (least[block] + scale[block] * q),  q in 0..15

Two values share a byte; scale and least value are half precision, rounded outward so that the block stays
within them. A block of 0 is the whole row. `columns` evens out columns of different size, as in int8_tables;
it is left out where it would not lower the error.

A table's rows are restored after they are gathered, with operators that every ONNX Runtime of opset 18 has.
Dense weights have one row an output; they are restored whole when the graph is loaded, so int4_dense saves
bytes that are served and shipped, but neither time nor memory.

Error: |x - x'| <= columns * scale / 2, and scale is a fifteenth of the block's span; element by element.
Source: block-wise 4-bit weights as in Dettmers and Zettlemoyer 2023 (arXiv:2212.09720).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from leanrec.compression.method import (
    GraphMethod,
    Requests,
    float_constants,
    gathers_of_tables,
    require,
)
from leanrec.compression.storage import Nodes, Stored, store_dense, store_matrices
from leanrec.config.methods import Int4Dense, Int4Tables

LEVELS = 15
TINY = float(np.finfo(np.float16).smallest_normal)
"""No scale is smaller: below it a half loses digits."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Int4Matrix:
    """A matrix [N, D] in 4 bits, M blocks a row."""

    packed: np.ndarray
    """[N, ceil(D / 2)] uint8: the first half of a row in the low bits, the second half in the high bits."""
    span: np.ndarray
    """[N, 2 * M]: the scale of each block, then its least value; float16, or float32 where that overflows."""
    block: np.ndarray
    """[D] int32: the block of each column."""
    columns: np.ndarray | None
    """[D] float32, or None where all columns count alike."""

    def restored(self) -> np.ndarray:
        """[N, D] float32: what the graph computes, operation by operation."""
        codes = np.concatenate([self.packed & 15, self.packed >> 4], axis=1)[:, : len(self.block)]
        scale, least = np.split(self.span.astype(np.float32), 2, axis=1)
        values = codes.astype(np.float32) * scale[:, self.block] + least[:, self.block]
        return values if self.columns is None else values * self.columns

    def largest_error(self) -> np.ndarray:
        """The bound on |matrix - restored|, element by element, [N, D]; a few float32 roundings on top."""
        scale, least = np.split(self.span.astype(np.float64), 2, axis=1)
        columns = np.ones(len(self.block)) if self.columns is None else self.columns.astype(np.float64)
        roundings = 4 * np.finfo(np.float32).eps * (np.abs(least) + LEVELS * scale)
        return np.asarray((scale / 2 + roundings)[:, self.block] * columns)

    def stored(self) -> Stored:
        """As it lies in a graph."""
        shared = {"low": np.array(15, np.uint8), "shift": np.array(4, np.uint8)}
        if self.span.shape[1] > 2:
            shared["block"] = self.block
        if len(self.block) % 2:
            shared |= {"from": np.array([0]), "to": np.array([len(self.block)]), "axis": np.array([-1])}
        if self.columns is not None:
            shared["columns"] = self.columns
        return Stored(by_row={"int4": self.packed, "span": self.span}, shared=shared, restore=_restore)


def quantize(matrix: np.ndarray, block: int) -> Int4Matrix:
    """`matrix` [N, D] float32 in 4 bits, `block` columns a scale (0: the whole row)."""
    columns = np.abs(matrix).max(axis=0)
    columns = np.where(columns >= np.finfo(np.float32).tiny, columns, 1).astype(np.float32)
    plain, evened = _quantize(matrix, None, block), _quantize(matrix, columns, block)
    return evened if _squared_error(matrix, evened) < 0.8 * _squared_error(matrix, plain) else plain


def rewrite_tables(graph: onnx.ModelProto, settings: Int4Tables, requests: Requests) -> onnx.ModelProto:
    """Store every gathered table in 4 bits."""
    tables = gathers_of_tables(graph.graph)
    require(tables, "int4_tables", "gathered table")
    values = {name: numpy_helper.to_array(tensor) for name, tensor in float_constants(graph.graph).items()}
    store_matrices(graph.graph, {name: quantize(values[name], settings.block).stored() for name in tables})
    return graph


def rewrite_dense(graph: onnx.ModelProto, settings: Int4Dense, requests: Requests) -> onnx.ModelProto:
    """Store every dense weight in 4 bits."""
    store_dense(graph.graph, "int4_dense", lambda weight: quantize(weight, settings.block).stored())
    return graph


def _quantize(matrix: np.ndarray, columns: np.ndarray | None, block: int) -> Int4Matrix:
    evened = (matrix if columns is None else matrix / columns).astype(np.float64)
    width = evened.shape[1]
    of_column = (np.arange(width) // (block or width)).astype(np.int32)
    starts = np.flatnonzero(np.diff(of_column, prepend=-1))
    low, high = (reduce.reduceat(evened, starts, axis=1) for reduce in (np.minimum, np.maximum))
    half = np.float16 if max(np.abs(low).max(), np.abs(high).max()) < np.finfo(np.float16).max else np.float32
    least = _rounded(low, half, -np.inf)
    scale = np.maximum(_rounded((high - least) / LEVELS, half, np.inf), half(TINY))
    codes = np.rint((evened - least[:, of_column]) / scale[:, of_column].astype(np.float64))
    codes = np.clip(codes, 0, LEVELS).astype(np.uint8)
    codes = np.pad(codes, ((0, 0), (0, width % 2)))
    first, second = np.split(codes, 2, axis=1)
    return Int4Matrix(
        packed=first | second << 4,
        span=np.concatenate([scale, least], axis=1),
        block=of_column,
        columns=columns,
    )


def _rounded(values: np.ndarray, dtype: type, toward: float) -> np.ndarray:
    """`values` as `dtype`, rounded toward minus or plus infinity."""
    nearest: np.ndarray = values.astype(dtype)
    beyond = nearest > values if toward < 0 else nearest < values
    return np.where(beyond, np.nextafter(nearest, dtype(toward)), nearest).astype(dtype)


def _squared_error(matrix: np.ndarray, quantized: Int4Matrix) -> float:
    return float(np.square(matrix.astype(np.float64) - quantized.restored()).sum())


def _restore(nodes: Nodes, parts: dict[str, str]) -> str:
    low = nodes.add("BitwiseAnd", parts["int4"], parts["low"])
    high = nodes.add("BitShift", parts["int4"], parts["shift"], direction="RIGHT")
    codes = nodes.add("Concat", low, high, axis=-1)
    if "to" in parts:
        codes = nodes.add("Slice", codes, parts["from"], parts["to"], parts["axis"])
    span = nodes.add("Cast", parts["span"], to=TensorProto.FLOAT)
    scale, least = nodes.add_with_outputs(2, "Split", span, num_outputs=2, axis=-1)
    if "block" in parts:
        scale, least = (nodes.add("Gather", part, parts["block"], axis=-1) for part in (scale, least))
    values = nodes.add("Mul", nodes.add("Cast", codes, to=TensorProto.FLOAT), scale)
    values = nodes.add("Add", values, least)
    return nodes.add("Mul", values, parts["columns"]) if "columns" in parts else values


INT4_TABLES = GraphMethod(
    name="int4_tables",
    rewrite=rewrite_tables,
)
INT4_DENSE = GraphMethod(
    name="int4_dense",
    rewrite=rewrite_dense,
)
