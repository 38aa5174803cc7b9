"""The contract of a compression method, and what the methods on graphs have in common.

A method on the model takes a `Recommender` and answers one with the same served tensors; a method on the
graph takes an ONNX graph and answers one with the same inputs and outputs. Their settings
(`leanrec/config/methods.py`) say what they rewrite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from leanrec.compression.source import CompressionSource
from leanrec.config.methods import METHODS as METHOD_SETTINGS
from leanrec.errors import CompressionError
from leanrec.export.runtime import Tensors
from leanrec.models.recommender import Recommender

TABLES = "tables"
"""Matrices whose rows are gathered: embedding tables and the item features."""

DENSE = "dense"
"""Matrices that are multiplied: layers, and the item vectors of the retrieval."""

MIN_BYTES = 2048
"""Weights smaller than this stay as they are: more nodes would cost more than the bytes are worth."""


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
    summary: str
    """What it does and what that buys, in one sentence."""

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
    summary: str
    """What it does and what that buys, in one sentence."""


def float_constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The float32 matrices among the constants that are worth rewriting, by name."""
    return {
        tensor.name: tensor
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
        and len(tensor.dims) == 2
        and 4 * int(np.prod(tensor.dims)) >= MIN_BYTES
    }


def gathers_of_tables(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """Table name -> the Gather nodes that read its rows, for tables that nothing else reads."""
    constants = float_constants(graph)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            if name in constants:
                readers.setdefault(name, []).append(node)
    return {
        name: nodes
        for name, nodes in readers.items()
        if all(node.op_type == "Gather" and _axis(node) == 0 and node.input[0] == name for node in nodes)
    }


def dense_weights(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """Weight name -> the MatMul and Gemm nodes that multiply by it from the right."""
    constants = float_constants(graph)
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in constants:
            found.setdefault(node.input[1], []).append(node)
    return found


def require(found: dict[str, list[onnx.NodeProto]], method: str, what: str) -> None:
    """Raise a CompressionError when a method has found nothing to rewrite."""
    if not found:
        raise CompressionError(
            f"{method}: the graph has no {what} of {MIN_BYTES} bytes or more; leave this method out"
        )


class Rewriter:
    """Puts chains of nodes in a gather's place, and constants beside the others."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._before: dict[str, list[onnx.NodeProto]] = {}
        self._after: dict[str, list[onnx.NodeProto]] = {}

    def constant(self, name: str, value: np.ndarray) -> str:
        """Add a constant; answers its name."""
        self._graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def replace(self, name: str, values: dict[str, np.ndarray]) -> None:
        """Put the constants `values` (by name) in the place of the constant `name`."""
        old = next(tensor for tensor in self._graph.initializer if tensor.name == name)
        self._graph.initializer.remove(old)
        for new, value in values.items():
            self.constant(new, value)

    def before(self, node: onnx.NodeProto, made: onnx.NodeProto) -> None:
        """Run `made` right before the first of what `follow` puts after `node`; call it before `follow`."""
        self._before.setdefault(f"{node.output[0]}/0", []).append(made)

    def follow(self, node: onnx.NodeProto, *steps: tuple[str, list[str], dict[str, Any]]) -> None:
        """After `node` run `steps` (operator, further inputs, attributes); the last takes over its output."""
        result = node.output[0]
        node.output[0] = current = f"{result}/0"
        for number, (operator, further, attributes) in enumerate(steps, 1):
            following = result if number == len(steps) else f"{result}/{number}"
            made = onnx.helper.make_node(operator, [current, *further], [following], **attributes)
            self._after.setdefault(node.output[0], []).append(made)
            current = following

    def finish(self) -> None:
        """Write the nodes back in the order in which they can run."""
        ordered: list[onnx.NodeProto] = []
        for node in self._graph.node:
            ordered += [made for output in node.output for made in self._before.get(output, [])]
            ordered.append(node)
            ordered += [made for output in node.output for made in self._after.get(output, [])]
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
        del self._graph.node[:]
        self._graph.node.extend(kept)


def _axis(node: onnx.NodeProto) -> int:
    return next((a.i for a in node.attribute if a.name == "axis"), 0)
