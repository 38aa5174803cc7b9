"""The contract of a compression method, and what the methods on graphs have in common.

A method on the model takes a `Recommender` and answers one with the same served tensors; a method on the
graph takes an ONNX graph and answers one with the same inputs and outputs. Their settings
(`leanrec/config/methods/`) say what they rewrite.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from leanrec.compression.source import CompressionSource
from leanrec.config.methods import METHODS as METHOD_SETTINGS
from leanrec.errors import CompressionError
from leanrec.export.runtime import Tensors
from leanrec.models.forms import Description
from leanrec.models.recommender import Recommender

TABLES = "tables"
"""Matrices whose rows are gathered: embedding tables and the item features."""

DENSE = "dense"
"""Matrices that are multiplied, by rows or element by element: layers, and the vectors of the retrieval."""

MIN_BYTES = 2048
"""Weights smaller than this stay as they are: more nodes would cost more than the bytes are worth."""

MIN_BYTES_RESTORED = 1024
"""The same for weights that are restored when the graph is loaded: their nodes take bytes, but no time."""


Requests = Callable[[], Tensors]
"""Answers requests of the training split as the graph takes them: inputs [B, ...] by name."""


def no_requests() -> Tensors:
    """For methods that look at weights alone."""
    raise CompressionError("this method must see requests, and none are at hand; give it a training set")


@dataclass(frozen=True, kw_only=True)
class GraphMethod:
    """One way to make a graph smaller or faster, after export."""

    name: str
    rewrite: Callable[[onnx.ModelProto, Any, Requests], onnx.ModelProto]
    """The graph rewritten by the method's settings; the argument may be consumed."""

    def apply(
        self, graph: onnx.ModelProto, settings: Any = None, requests: Requests = no_requests
    ) -> onnx.ModelProto:
        """`graph` rewritten. Raises a CompressionError when the method finds nothing to rewrite."""
        copy = onnx.ModelProto()
        copy.CopyFrom(graph)
        before = [value.SerializeToString() for value in (*graph.graph.input, *graph.graph.output)]
        compressed = self.rewrite(copy, settings or METHOD_SETTINGS[self.name](), requests)
        after = [value.SerializeToString() for value in (*compressed.graph.input, *compressed.graph.output)]
        assert before == after, f"{self.name} changed the graph's interface"
        return compressed


@dataclass(frozen=True, kw_only=True)
class ModelMethod:
    """One way to make a model smaller, before export; most fine-tune it."""

    name: str
    change: Callable[[Recommender, Any, CompressionSource], Recommender]
    """The model changed by the method's settings; the argument may be consumed."""
    forms: Callable[[Recommender, Any], Description] | None = None
    """The forms that it gives to layers and tables, by their shapes and its settings; None: it gives none."""


def float_constants(graph: onnx.GraphProto, min_bytes: int = MIN_BYTES) -> dict[str, onnx.TensorProto]:
    """The float32 matrices among the constants that are worth rewriting, by name."""
    return {
        tensor.name: tensor
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
        and len(tensor.dims) == 2
        and 4 * int(np.prod(tensor.dims)) >= min_bytes
    }


def gathers_of_tables(graph: onnx.GraphProto, min_bytes: int = MIN_BYTES) -> dict[str, list[onnx.NodeProto]]:
    """Table name -> the Gather nodes that read its rows."""
    constants = float_constants(graph, min_bytes)
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        if node.op_type == "Gather" and node.input[0] in constants and axis_of(node) == 0:
            found.setdefault(node.input[0], []).append(node)
    return found


def dense_weights(graph: onnx.GraphProto, min_bytes: int = MIN_BYTES) -> dict[str, list[onnx.NodeProto]]:
    """Weight name -> the MatMul and Gemm nodes that multiply by it from the right; no table is among them."""
    constants = float_constants(graph, min_bytes).keys() - gathers_of_tables(graph, min_bytes).keys()
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in constants:
            found.setdefault(node.input[1], []).append(node)
    return found


def scaling_weights(graph: onnx.GraphProto, min_bytes: int = MIN_BYTES) -> dict[str, list[onnx.NodeProto]]:
    """Weight name -> the Mul nodes that multiply by it element by element; no tables, no layers."""
    others = gathers_of_tables(graph, min_bytes).keys() | dense_weights(graph, min_bytes).keys()
    constants = float_constants(graph, min_bytes).keys() - others
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        if node.op_type == "Mul":
            for name in constants & set(node.input):
                found.setdefault(name, []).append(node)
    return found


def is_output_by_input(node: onnx.NodeProto) -> bool:
    """Whether the weight of a MatMul or Gemm has one row an output (else one row an input)."""
    return any(a.name == "transB" and a.i for a in node.attribute)


def require(found: Collection[object], method: str, what: str) -> None:
    """Raise a CompressionError when a method has found nothing to rewrite."""
    if not found:
        raise CompressionError(
            f"{method}: the graph has no {what} of {MIN_BYTES} bytes or more; leave this method out"
        )


def axis_of(node: onnx.NodeProto) -> int:
    """The axis along which a node gathers, joins or splits; 0 where it names none."""
    return next((a.i for a in node.attribute if a.name == "axis"), 0)


def put_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Let `nodes`, of which some may be the graph's own, be all that it has, in place."""
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
