"""fp16: weights stored in half precision, every computation still in float32.

Halves the bytes served, and half of what a gather reads; it does not make a CPU compute faster, for CPUs
multiply float32. Tables are cast after their rows are gathered; dense weights are cast whole, which ONNX
Runtime does once, when the graph is loaded. Softmax, TopK and sums stay in float32, so nothing overflows.

Error: a normal half has 11 significant bits, so |x - x'| <= 2^-11 |x|, and <= 2^-25 near zero (IEEE 754).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from leanrec.compression.method import (
    GraphMethod,
    Requests,
    Rewriter,
    dense_weights,
    float_constants,
    gathers_of_tables,
    require,
)

MAX_HALF = float(np.finfo(np.float16).max)
RELATIVE_ERROR, ABSOLUTE_ERROR = 2.0**-11, 2.0**-25


def largest_error(weights: np.ndarray) -> np.ndarray:
    """The bound on |weight - stored weight|, element by element."""
    return np.maximum(RELATIVE_ERROR * np.abs(weights), ABSOLUTE_ERROR)


def rewrite(graph: onnx.ModelProto, settings: Any, requests: Requests) -> onnx.ModelProto:
    """Store tables and dense weights as float16; a matrix that float16 cannot hold stays as it is."""
    body = graph.graph
    tables, dense = gathers_of_tables(body), dense_weights(body)
    require({**tables, **dense}, "fp16", "table or dense weight")
    values = {name: numpy_helper.to_array(tensor) for name, tensor in float_constants(body).items()}
    rewriter = Rewriter(body)
    casts = []
    for name in sorted(tables.keys() | dense.keys()):
        if np.abs(values[name]).max() > MAX_HALF:
            continue
        half = f"{name}/fp16"
        rewriter.replace(name, {half: values[name].astype(np.float16)})
        for node in tables.get(name, []):
            node.input[0] = half
            rewriter.follow(node, ("Cast", [], {"to": TensorProto.FLOAT}))
        if name in dense:
            casts.append(onnx.helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))
    rewriter.finish()
    nodes = [*casts, *(onnx.NodeProto.FromString(node.SerializeToString()) for node in body.node)]
    del body.node[:]
    body.node.extend(nodes)
    return graph


FP16 = GraphMethod(
    name="fp16",
    rewrite=rewrite,
    summary="weights stored in half precision: half the bytes, scores equal to about three digits",
)
