"""fp16 and bf16: weights stored in 16 bits, every computation still in float32.

Halves the bytes served, and half of what a gather reads; it does not make a CPU compute faster, for CPUs
multiply float32. Tables are cast after their rows are gathered; dense weights are cast whole, which ONNX
Runtime does once, when the graph is loaded. Softmax, TopK and sums stay in float32, so nothing overflows.
Choose bf16 where weights are beyond the range of half precision, fp16 otherwise: it has 8 times the digits.

Error: a normal half has 11 significant bits, so |x - x'| <= 2^-11 |x|, and <= 2^-25 near zero (IEEE 754);
bfloat16 has 8, so |x - x'| <= 2^-8 |x| (a float32 with its last 16 bits rounded away).
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from leanrec.compression.method import (
    GraphMethod,
    Requests,
    dense_weights,
    float_constants,
    gathers_of_tables,
    require,
    scaling_weights,
)
from leanrec.compression.storage import Nodes, Stored, store_matrices

MAX_HALF = float(np.finfo(np.float16).max)
RELATIVE_ERROR, ABSOLUTE_ERROR = 2.0**-11, 2.0**-25
RELATIVE_ERROR_BF16 = 2.0**-8


def largest_error(weights: np.ndarray) -> np.ndarray:
    """The bound on |weight - weight in half precision|, element by element."""
    return np.maximum(RELATIVE_ERROR * np.abs(weights), ABSOLUTE_ERROR)


def rewrite_fp16(graph: onnx.ModelProto, settings: Any, requests: Requests) -> onnx.ModelProto:
    """Store tables and dense weights as float16; a matrix that float16 cannot hold stays as it is."""
    return _rewrite(graph, "fp16", np.dtype(np.float16), MAX_HALF)


def rewrite_bf16(graph: onnx.ModelProto, settings: Any, requests: Requests) -> onnx.ModelProto:
    """Store tables and dense weights as bfloat16."""
    return _rewrite(graph, "bf16", np.dtype(ml_dtypes.bfloat16), np.inf)


def _rewrite(graph: onnx.ModelProto, name: str, dtype: np.dtype[Any], largest: float) -> onnx.ModelProto:
    found = {
        **gathers_of_tables(graph.graph),
        **dense_weights(graph.graph),
        **scaling_weights(graph.graph),
    }
    require(found, name, "table or dense weight")
    values = {name: numpy_helper.to_array(tensor) for name, tensor in float_constants(graph.graph).items()}
    store_matrices(
        graph.graph,
        {
            weight: Stored(by_row={name: values[weight].astype(dtype)}, restore=widened)
            for weight in sorted(found)
            if np.abs(values[weight]).max() <= largest
        },
    )
    return graph


def widened(nodes: Nodes, parts: dict[str, str]) -> str:
    """Restores what is stored as it is, in fewer bits: its one part as float32."""
    (part,) = parts.values()
    return nodes.add("Cast", part, to=TensorProto.FLOAT)


FP16 = GraphMethod(
    name="fp16",
    rewrite=rewrite_fp16,
)
BF16 = GraphMethod(
    name="bf16",
    rewrite=rewrite_bf16,
)
