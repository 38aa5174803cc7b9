"""How a matrix is stored in a graph, and the nodes that restore its rows after they are gathered.

Wherever a graph gathers rows of a stored matrix, it gathers the rows of its parts and restores only those.
Any other reader gets the whole matrix restored, which ONNX Runtime does once, when it loads the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from leanrec.compression.method import (
    MIN_BYTES_RESTORED,
    dense_weights,
    float_constants,
    gathers_of_tables,
    is_output_by_input,
    put_nodes,
    require,
    scaling_weights,
)

BEYOND_TWO_BYTES = 1 << 16
"""The least number that two bytes do not hold."""

Restore = Callable[["Nodes", dict[str, str]], str]


@dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """A matrix [N, D] in another form."""

    by_row: dict[str, np.ndarray]
    """Parts with N rows, gathered like the matrix itself."""
    restore: Restore
    """Appends the nodes that compute [..., D] from the parts' names; answers the name of the result."""
    shared: dict[str, np.ndarray] = field(default_factory=dict)
    """Parts that every row needs."""


class Nodes:
    """Nodes in the order in which they run; `prefix`, unlike any other, names what is between."""

    def __init__(self, prefix: str, result: str) -> None:
        self.prefix, self.result = prefix, result
        self.made: list[onnx.NodeProto] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output; answers its name."""
        return self.add_with_outputs(1, operator, *inputs, **attributes)[0]

    def add_with_outputs(self, num: int, operator: str, *inputs: str, **attributes: Any) -> list[str]:
        """Append a node with `num` outputs; answers their names."""
        outputs = [f"{self.prefix}.{len(self.made)}{'abc'[i]}" for i in range(num)]
        self.made.append(onnx.helper.make_node(operator, list(inputs), outputs, **attributes))
        return outputs

    def finish(self, last: str) -> list[onnx.NodeProto]:
        """All nodes, `last` renamed to the final result."""
        for node in self.made:
            for names in (node.input, node.output):
                for place, name in enumerate(names):
                    names[place] = self.result if name == last else name
        return self.made


def narrowest(place: np.ndarray) -> np.ndarray:
    """Where rows went, [N] int32, in two bytes each where they suffice."""
    return place.astype(np.uint16) if place.max() < BEYOND_TWO_BYTES else place


def bytes_of_places(num_rows: int, largest: int) -> int:
    """What `narrowest` takes for the places of so many rows."""
    return num_rows * (2 if largest < BEYOND_TWO_BYTES else 4)


def store_matrices(
    graph: onnx.GraphProto, stored: Mapping[str, Stored], transposed: frozenset[str] = frozenset()
) -> None:
    """Put `stored` (by the name of the constant) into the place of the float32 matrices, in place.

    What is stored of a matrix in `transposed` is its transpose.
    """
    gathers = {
        node.output[0]: name
        for name, nodes in gathers_of_tables(graph).items()
        if name in stored
        for node in nodes
    }
    body: list[onnx.NodeProto] = []
    whole: dict[str, str] = {}
    for node in graph.node:
        table = gathers.get(node.output[0])
        if table is not None:
            body += _gathered(table, stored[table], node)
            continue
        for place, name in enumerate(node.input):
            if name in stored:
                node.input[place] = whole.setdefault(name, f"{name}/whole")
        body.append(node)
    front = [made for name in whole for made in _whole(name, stored[name], name in transposed)]
    put_nodes(graph, (*front, *body))
    for tensor in [tensor for tensor in graph.initializer if tensor.name in stored]:
        graph.initializer.remove(tensor)
    for name, form in stored.items():
        for part, value in {**form.by_row, **form.shared}.items():
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), f"{name}/{part}"))


def store_dense(graph: onnx.GraphProto, method: str, store: Callable[[np.ndarray], Stored]) -> None:
    """Put every dense weight into the form that `store` gives it, one row an output, in place.

    Each is restored whole when the graph is loaded. Raises a CompressionError, which names `method`, where
    the graph has none.
    """
    weights = dense_weights(graph, MIN_BYTES_RESTORED)
    require(weights, method, "dense weight")
    transposed = frozenset(name for name, nodes in weights.items() if not is_output_by_input(nodes[0]))
    values = _values(graph)
    stored = {name: store(values[name].T if name in transposed else values[name]) for name in weights}
    store_matrices(graph, stored, transposed)
    store_scaling(graph, store)


def store_scaling(graph: onnx.GraphProto, store: Callable[[np.ndarray], Stored]) -> None:
    """Put every matrix that multiplies element by element into the form that `store` gives it, in place."""
    values = _values(graph)
    scaling = sorted(scaling_weights(graph, MIN_BYTES_RESTORED))
    store_matrices(graph, {name: store(values[name]) for name in scaling})


def _values(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    constants = float_constants(graph, MIN_BYTES_RESTORED)
    return {name: numpy_helper.to_array(tensor) for name, tensor in constants.items()}


def _gathered(name: str, form: Stored, gather: onnx.NodeProto) -> list[onnx.NodeProto]:
    nodes = Nodes(f"{name}/{gather.output[0]}", gather.output[0])
    parts = {part: f"{name}/{part}" for part in form.shared}
    for part in form.by_row:
        parts[part] = nodes.add("Gather", f"{name}/{part}", gather.input[1], axis=0)
    return nodes.finish(form.restore(nodes, parts))


def _whole(name: str, form: Stored, transposed: bool) -> list[onnx.NodeProto]:
    nodes = Nodes(f"{name}/whole", f"{name}/whole")
    last = form.restore(nodes, {part: f"{name}/{part}" for part in (*form.by_row, *form.shared)})
    return nodes.finish(nodes.add("Transpose", last, perm=[1, 0]) if transposed else last)
