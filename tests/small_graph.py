"""A graph as small as one can be that has what compression looks for: tables gathered, layers multiplied."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from leanrec.export.graph_file import write_graph
from leanrec.export.runtime import GraphSession

ROWS, DIM, HIDDEN = 200, 32, 64


def small_model() -> onnx.ModelProto:
    """Two tables gathered by the same ids, and a MatMul and a Gemm over their mean."""
    random = np.random.default_rng(0)
    weights = {
        "table": random.normal(size=(ROWS, 12)) @ random.normal(size=(12, DIM)) / 3,
        "other": random.normal(size=(ROWS, 12)) @ random.normal(size=(12, DIM)) / 3,
        "first": random.normal(size=(2 * DIM, HIDDEN)) / 8,
        "second": random.normal(size=(HIDDEN, HIDDEN)) / 8,
        "bias": random.normal(size=HIDDEN),
        "axis": np.array([1]),
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["a"], axis=0),
        helper.make_node("Gather", ["other", "ids"], ["b"], axis=0),
        helper.make_node("Concat", ["a", "b"], ["both"], axis=2),
        helper.make_node("ReduceMean", ["both", "axis"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "first"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "second", "bias"], ["score"], transB=1),
    ]
    typed = {
        name: value.astype(np.int64 if name == "axis" else np.float32) for name, value in weights.items()
    }
    return small_graph(nodes, typed, {"score": [None, HIDDEN]})


def small_graph(nodes, constants, outputs) -> onnx.ModelProto:
    """A graph that takes `ids` [.., ..] and answers `outputs`, name -> shape."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [None, None])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def table_graph(table: np.ndarray) -> onnx.ModelProto:
    """The rows of one table, gathered."""
    return small_graph(
        [helper.make_node("Gather", ["table", "ids"], ["rows"], axis=0)],
        {"table": table},
        {"rows": [None, None, table.shape[1]]},
    )


def answer(graph: onnx.ModelProto, ids: np.ndarray, folder) -> np.ndarray:
    """What `graph` answers to `ids` in ONNX Runtime, from a file in `folder`."""
    path = folder / "model.onnx"
    write_graph(graph, path)
    onnx.checker.check_model(path, full_check=True)
    (output,) = GraphSession(path).run({"ids": ids}).values()
    return output


def requests() -> dict[str, np.ndarray]:
    """Some rows are looked up often, most are not."""
    skewed = np.random.default_rng(3).zipf(1.3, size=(400, 7)) % ROWS
    return {"ids": np.where(np.arange(7) == 0, np.random.default_rng(4).integers(0, ROWS, (400, 1)), skewed)}
