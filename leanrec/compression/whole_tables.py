"""Small tables restored when a graph is loaded, in the place of their rows at every request.

Methods on tables gather the rows of what is stored and restore those. What restores a row (casts, scales,
codes taken apart) does the same to every row by itself, so it may as well come before the rows are gathered:

    restore(Gather(stored, ids))  =  Gather(restore(stored), ids)

On the right `restore(stored)` is made of constants alone, which ONNX Runtime computes once, when it loads the
graph. The bytes served stay as they are, and so does every answer, bit for bit; a request no longer pays for
the restoring nodes, which cost more than the look-up itself. What a matrix makes of each row, as where a
table is stored as a narrow one times a small matrix, is computed once, too; such products may round
otherwise. The price is memory: the result in float32. So it is done to tables of at most `MAX_ROWS` rows, and
to products of at most `MAX_NUMBERS` numbers.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import onnx
from onnx import numpy_helper

from leanrec.compression.method import axis_of, put_nodes
from leanrec.export.onnx_export import OPSET

MAX_ROWS = 50_000
"""12.8 MB of float32 at a width of 64."""
BY_ELEMENT = frozenset({"Cast", "Mul", "Add", "Sub", "Div", "BitwiseAnd", "BitShift"})
MAX_INDICES = 64
"""Constants up to so many numbers may say what shape another tensor gets."""
MAX_NUMBERS = 128 * MAX_ROWS
"""25.6 MB of float32."""


class Rows(NamedTuple):
    """A tensor that is Gather(table, ids)."""

    ids: str
    table: str
    number: int
    """Rows of the table."""


def restore_small_tables(graph: onnx.GraphProto, max_rows: int = MAX_ROWS) -> None:
    """Let small tables be restored before their rows are gathered, in place. The answers are the same."""
    mover = _Mover(graph, max_rows)
    for node in graph.node:
        mover.take(node)
    for value in graph.output:
        mover.gather(value.name)
    put_nodes(graph, (*mover.at_load, *mover.body))


class _Mover:
    """The graph taken apart, node by node, into what runs when it is loaded and what runs at a request."""

    def __init__(self, graph: onnx.GraphProto, max_rows: int) -> None:
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.shapes = _shapes(graph)
        self.known = set(self.constants)
        """What is there when the graph is loaded: constants, and what is computed of them alone."""
        self.max_rows = max_rows
        self.at_load: list[onnx.NodeProto] = []
        self.body: list[onnx.NodeProto] = []
        self.rows: dict[str, Rows] = {}
        self.gathered: set[str] = set()
        self.made: dict[bytes, list[str]] = {}
        """What a node at load computes -> the names that it has already."""

    def take(self, node: onnx.NodeProto) -> None:
        """The next node of the graph."""
        if self._is_made_of_constants(node):
            self.known.update(node.output)
            self.at_load.append(node)
        elif self._gathers_small_table(node):
            self.rows[node.output[0]] = Rows(
                ids=node.input[1], table=node.input[0], number=self.constants[node.input[0]].dims[0]
            )
        elif ids := self._ids_of_row_by_row(node):
            number = next(self.rows[name].number for name in node.input if name in self.rows)
            for name, table in zip(node.output, self._at_load(node), strict=True):
                self.rows[name] = Rows(ids=ids, table=table, number=number)
        else:
            for name in node.input:
                self.gather(name)
            self.body.append(node)

    def gather(self, name: str) -> None:
        """Let `name` be there at a request, where it is rows that were not gathered yet."""
        found = self.rows.get(name)
        if found is not None and name not in self.gathered:
            self.gathered.add(name)
            self.gather(found.ids)
            self.body.append(onnx.helper.make_node("Gather", [found.table, found.ids], [name], axis=0))

    def _is_made_of_constants(self, node: onnx.NodeProto) -> bool:
        sees_more = any(attribute.HasField("g") for attribute in node.attribute)
        shaped = self.shapes.keys() >= set(node.output)
        return self.known.issuperset(node.input) and shaped and not sees_more

    def _gathers_small_table(self, node: onnx.NodeProto) -> bool:
        table = self.constants.get(node.input[0]) if node.op_type == "Gather" else None
        return (
            table is not None
            and len(table.dims) == 2
            and table.dims[0] <= self.max_rows
            and axis_of(node) == 0
            and node.input[1] not in self.constants
        )

    def _ids_of_row_by_row(self, node: onnx.NodeProto) -> str | None:
        """The ids of the rows that `node` changes one by one; None for a node that does anything else."""
        ids = {self.rows[name].ids for name in node.input if name in self.rows}
        others = [name for name in node.input if name not in self.rows]
        if len(ids) != 1 or not self.known.issuperset(others):
            return None
        return ids.pop() if self._keeps_rows_apart(node, others) else None

    def _keeps_rows_apart(self, node: onnx.NodeProto, others: list[str]) -> bool:
        shapes = [self.shapes[name] for name in others]
        match node.op_type:
            case operator if operator in BY_ELEMENT:
                return all(len(shape) <= 1 for shape in shapes)
            case "Concat" | "Split":
                return not others and axis_of(node) == -1
            case "MatMul":
                return node.input[0] in self.rows and self._is_small_product(node, shapes)
            case "Slice":
                return len(others) == 3 and self._axes(node) == [-1]
            case "Gather":
                return node.input[0] in self.rows and axis_of(node) == -1 and len(shapes[0]) == 1
            case _:
                return False

    def _is_small_product(self, node: onnx.NodeProto, shapes: list[tuple[int, ...]]) -> bool:
        num_rows = self.rows[node.input[0]].number
        return len(shapes) == 1 and len(shapes[0]) == 2 and num_rows * shapes[0][1] <= MAX_NUMBERS

    def _axes(self, node: onnx.NodeProto) -> list[int]:
        axes = self.constants.get(node.input[3])
        values: list[int] = [] if axes is None else numpy_helper.to_array(axes).ravel().tolist()
        return values

    def _at_load(self, node: onnx.NodeProto) -> list[str]:
        """The names of what `node` makes of whole tables."""
        whole = onnx.NodeProto()
        whole.CopyFrom(node)
        whole.name = ""
        for place, name in enumerate(node.input):
            if name in self.rows:
                whole.input[place] = self.rows[name].table
        del whole.output[:]
        key = whole.SerializeToString()
        if key not in self.made:
            self.made[key] = [f"{name}/whole" for name in node.output]
            whole.output.extend(self.made[key])
            self.at_load.append(whole)
        return self.made[key]


def _shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that has but one; large constants take part by their shapes alone."""
    small = [tensor for tensor in graph.initializer if math.prod(tensor.dims) <= MAX_INDICES]
    large = [tensor for tensor in graph.initializer if math.prod(tensor.dims) > MAX_INDICES]
    given = [onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in large]
    bare = onnx.helper.make_graph(graph.node, graph.name, [*graph.input, *given], graph.output, small)
    model = onnx.helper.make_model(bare, opset_imports=[onnx.helper.make_opsetid("", OPSET)])
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in inferred.value_info:
        sizes = value.type.tensor_type.shape.dim
        if all(size.HasField("dim_value") for size in sizes):
            shapes[value.name] = tuple(size.dim_value for size in sizes)
    return shapes
