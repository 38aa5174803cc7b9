"""Small tables restored when a graph is loaded, in the place of their rows at every request.

Methods on tables gather the rows of what is stored and restore those. What restores a row (casts, scales,
codes taken apart) does the same to every row by itself, so it may as well come before the rows are gathered:

    restore(Gather(stored, ids))  =  Gather(restore(stored), ids)

On the right `restore(stored)` is made of constants alone, which ONNX Runtime computes once, when it loads the
graph. The bytes served stay as they are, and so does every answer; a request no longer pays for the restoring
nodes, which cost more than the look-up itself. What a matrix makes of each row, as where a table is stored as
a narrow one times a small matrix, is computed once, too, the matrix itself restored or not. The price is
memory: the table in float32. So it is done to tables of at most `MAX_ROWS` rows.
"""

from __future__ import annotations

from typing import NamedTuple

import onnx
from onnx import numpy_helper

from leanrec.compression.method import axis_of, put_nodes

MAX_ROWS = 50_000
"""12.8 MB of float32 at a width of 64."""
BY_ELEMENT = frozenset({"Cast", "Mul", "Add", "Sub", "Div", "BitwiseAnd", "BitShift"})
KEEPS_RANK = BY_ELEMENT | {"Transpose", "Concat", "Split", "Slice", "Gather"}
"""What layers are restored by, all of them constants; the result has the rank of the matrix among them. Gather
does so where it is asked for a row of indices."""


class Rows(NamedTuple):
    """A tensor that is Gather(table, ids)."""

    ids: str
    table: str


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
        self.ranks = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
        """Of all that is known when the graph is loaded: constants, and what is computed of them alone."""
        self.max_rows = max_rows
        self.at_load: list[onnx.NodeProto] = []
        self.body: list[onnx.NodeProto] = []
        self.rows: dict[str, Rows] = {}
        self.gathered: set[str] = set()
        self.made: dict[bytes, list[str]] = {}
        """What a node at load computes -> the names that it has already."""

    def take(self, node: onnx.NodeProto) -> None:
        """The next node of the graph."""
        if self._restores_a_constant(node):
            rank = max(self.ranks[name] for name in node.input)
            self.ranks |= dict.fromkeys(node.output, rank)
            self.at_load.append(node)
        elif self._gathers_small_table(node):
            self.rows[node.output[0]] = Rows(ids=node.input[1], table=node.input[0])
        elif ids := self._ids_of_row_by_row(node):
            for name, table in zip(node.output, self._at_load(node), strict=True):
                self.rows[name] = Rows(ids=ids, table=table)
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

    def _restores_a_constant(self, node: onnx.NodeProto) -> bool:
        known = node.op_type in KEEPS_RANK and all(name in self.ranks for name in node.input)
        return known and (node.op_type != "Gather" or self.ranks[node.input[1]] == 1)

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
        if len(ids) != 1 or not all(name in self.ranks for name in others):
            return None
        return ids.pop() if self._keeps_rows_apart(node, others) else None

    def _keeps_rows_apart(self, node: onnx.NodeProto, others: list[str]) -> bool:
        ranks = [self.ranks[name] for name in others]
        match node.op_type:
            case operator if operator in BY_ELEMENT:
                return all(rank <= 1 for rank in ranks)
            case "Concat" | "Split":
                return not others and axis_of(node) == -1
            case "MatMul":
                return node.input[0] in self.rows and ranks == [2]
            case "Slice":
                return len(others) == 3 and self._axes(node) == [-1]
            case "Gather":
                return node.input[0] in self.rows and axis_of(node) == -1
            case _:
                return False

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
