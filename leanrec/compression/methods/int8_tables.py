"""int8_tables and int8_dense: matrices in 8 bits, one scale a row.

    row ~ scale[row] * columns * q,  q in -127..127

`columns` evens out columns of different size before the rows are scaled (as SmoothQuant does for layers, Xiao
et al. 2023); it is left out where it would not lower the error. Only Gather, Cast and Mul are used, which
every ONNX Runtime has, old Triton images included.

A table's rows are restored after they are gathered. Dense weights have one row an output; they are restored
whole when the graph is loaded and multiplied in float32: fewer bytes to serve, no error in what flows through
the layers, and nothing that depends on who else shares the batch. For layers so small that rounding their
inputs takes longer than multiplying them, such as those of low_rank, that is quicker than int8_mlp, too.

Error: |x - x'| <= columns * scale / 2 = columns * max|row / columns| / 254, element by element.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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

LEVELS = 127
TINY = np.finfo(np.float32).tiny
"""Below it a float32 loses digits, so no scale is smaller; such rows become zeros."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Int8Table:
    """A table [N, D] in 8 bits."""

    rows: np.ndarray
    """[N, D] int8."""
    scale: np.ndarray
    """[N, 1] float32."""
    columns: np.ndarray | None
    """[D] float32, or None where all columns count alike."""

    def restored(self) -> np.ndarray:
        """[N, D] float32: what the graph computes, operation by operation."""
        values = self.rows.astype(np.float32) * self.scale
        return values if self.columns is None else values * self.columns

    def stored(self) -> Stored:
        """As it lies in a graph."""
        shared = {} if self.columns is None else {"columns": self.columns}
        return Stored(by_row={"int8": self.rows, "scale": self.scale}, shared=shared, restore=_restore)

    def largest_error(self) -> np.ndarray:
        """The bound on |table - restored|, element by element, [N, D]; a few float32 roundings on top."""
        columns = np.ones(self.rows.shape[1], np.float32) if self.columns is None else self.columns
        step = self.scale.astype(np.float64) * columns
        return np.asarray(step * (0.5 + 4 * LEVELS * np.finfo(np.float32).eps) + TINY)


def quantize(table: np.ndarray) -> Int8Table:
    """`table` [N, D] float32 in 8 bits, with or without column scales, whichever restores it better."""
    columns = np.abs(table).max(axis=0)
    columns = np.where(columns >= TINY, columns, 1).astype(np.float32)
    plain, evened = _quantize(table, None), _quantize(table, columns)
    return evened if _squared_error(table, evened) < 0.8 * _squared_error(table, plain) else plain


def rewrite(graph: onnx.ModelProto, settings: Any, requests: Requests) -> onnx.ModelProto:
    """Store every gathered table in 8 bits and scale its rows after they are gathered."""
    tables = gathers_of_tables(graph.graph)
    require(tables, "int8_tables", "gathered table")
    values = {name: numpy_helper.to_array(tensor) for name, tensor in float_constants(graph.graph).items()}
    store_matrices(graph.graph, {name: quantize(values[name]).stored() for name in tables})
    return graph


def rewrite_dense(graph: onnx.ModelProto, settings: Any, requests: Requests) -> onnx.ModelProto:
    """Store every dense weight in 8 bits."""
    store_dense(graph.graph, "int8_dense", lambda weight: quantize(weight).stored())
    return graph


def _restore(nodes: Nodes, parts: dict[str, str]) -> str:
    values = nodes.add("Mul", nodes.add("Cast", parts["int8"], to=TensorProto.FLOAT), parts["scale"])
    return nodes.add("Mul", values, parts["columns"]) if "columns" in parts else values


def _quantize(table: np.ndarray, columns: np.ndarray | None) -> Int8Table:
    evened = table if columns is None else table / columns
    largest = np.abs(evened).max(axis=1, keepdims=True)
    scale = np.where(largest / LEVELS >= TINY, largest / LEVELS, 1).astype(np.float32)
    rows = np.clip(np.rint(evened / scale), -LEVELS, LEVELS).astype(np.int8)
    return Int8Table(rows=rows, scale=scale, columns=columns)


def _squared_error(table: np.ndarray, quantized: Int8Table) -> float:
    return float(np.square(table.astype(np.float64) - quantized.restored()).sum())


INT8_TABLES = GraphMethod(
    name="int8_tables",
    rewrite=rewrite,
)
INT8_DENSE = GraphMethod(
    name="int8_dense",
    rewrite=rewrite_dense,
)
