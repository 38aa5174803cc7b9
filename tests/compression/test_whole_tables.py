"""Small tables restored when a graph is loaded: the same bits, and nothing left to restore at a request."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from small_graph import ROWS, requests, small_graph, small_model

from leanrec.compression import whole_tables
from leanrec.compression.methods import GRAPH_METHODS
from leanrec.compression.recipes import cook
from leanrec.compression.whole_tables import restore_small_tables
from leanrec.config import Recipe
from leanrec.config.methods import METHODS
from leanrec.export.runtime import GraphSession

IDS = np.random.default_rng(1).integers(0, ROWS, (40, 7))
RESTORING = {"Cast", "Mul", "Add", "BitShift", "BitwiseAnd", "Split", "Slice"}


def save(graph: onnx.ModelProto, folder) -> str:
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, folder / "model.onnx")
    return str(folder / "model.onnx")


def answers(graph: onnx.ModelProto, folder) -> bytes:
    (output,) = GraphSession(save(graph, folder)).run({"ids": IDS}).values()
    return output.tobytes()


def run_at_a_request(graph: onnx.ModelProto, folder) -> list[str]:
    """The operators that ONNX Runtime is left with once it has computed what is constant."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(save(graph, folder), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]


@pytest.mark.parametrize(
    "steps",
    [
        [("fp16", {})],
        [("int8_tables", {})],
        [("int8_tables", {"block": 8})],
        [("int8_tables", {"symmetric": False})],
        [("int8_tables", {"block": 8, "symmetric": False})],
        [("int4_tables", {"block": 0})],
        [("int4_tables", {"block": 8})],
        [("factorize_tables", {"energy": 0.95}), ("int8_tables", {})],
        [("prune_rows", {"share": 0.5})],
        [("product_quantized_tables", {"bits": 1, "min_rows": 10})],
    ],
    ids=str,
)
def test_the_answers_are_the_same_bits(steps, tmp_path):
    graph = small_model()
    for name, settings in steps:
        graph = GRAPH_METHODS[name].apply(graph, METHODS[name](**settings), requests)
    before, size = answers(graph, tmp_path), graph.ByteSize()
    restore_small_tables(graph.graph)
    assert answers(graph, tmp_path) == before
    assert graph.ByteSize() < 1.02 * size


@pytest.mark.parametrize(
    "step",
    ["fp16", "int8_tables", {"int8_tables": {"block": 8, "symmetric": False}}, "int4_tables"],
    ids=str,
)
def test_a_recipe_leaves_nothing_to_restore_at_a_request(step, tmp_path):
    left = run_at_a_request(cook(Recipe.parse({"name": "one", "steps": [step]}), small_model()), tmp_path)
    assert left.count("Gather") == 2
    assert not RESTORING & set(left)


def test_a_large_table_is_restored_row_by_row(tmp_path):
    graph = GRAPH_METHODS["int8_tables"].apply(small_model())
    restore_small_tables(graph.graph, max_rows=ROWS - 1)
    assert {"Cast", "Mul"} <= set(run_at_a_request(graph, tmp_path))


def test_what_mixes_rows_stays_behind_the_look_up(tmp_path):
    # Each of these would answer something else of the whole table than of the rows looked up.
    table = np.random.default_rng(0).normal(size=(ROWS, 4)).astype(np.float32)
    weights = {
        "table": table,
        "by_place": np.arange(28, dtype=np.float32).reshape(7, 4),
        "axis": np.array([1]),
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], axis=0),
        helper.make_node("Mul", ["rows", "by_place"], ["weighted"]),
        helper.make_node("ReduceSum", ["rows", "axis"], ["sums"], keepdims=1),
        helper.make_node("Concat", ["weighted", "sums"], ["longer"], axis=1),
        helper.make_node("Add", ["longer", "sums"], ["answer"]),
    ]
    graph = small_graph(nodes, weights, {"answer": [None, None, 4]})
    before = answers(graph, tmp_path)
    restore_small_tables(graph.graph)
    assert answers(graph, tmp_path) == before


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("numbers", [4 * ROWS, 4 * ROWS - 1])
def test_what_a_restored_matrix_makes_of_a_small_table_is_computed_when_the_graph_is_loaded(
    bits, numbers, tmp_path, monkeypatch
):
    monkeypatch.setattr(whole_tables, "MAX_NUMBERS", numbers)
    random = np.random.default_rng(0)
    weights = {
        "narrow": random.normal(size=(ROWS, 3)).astype(np.float32),
        "codes": random.integers(0, 256, (4, 3 if bits == 8 else 2)).astype(np.uint8),
        "scale": random.uniform(0.01, 0.02, (3,)).astype(np.float32),
        **{name: np.array(value, np.uint8) for name, value in {"low": 15, "shift": 4}.items()},
        **{name: np.array([value]) for name, value in {"from": 0, "to": 3, "axis": -1}.items()},
    }
    unpacking = [
        helper.make_node("BitwiseAnd", ["codes", "low"], ["first"]),
        helper.make_node("BitShift", ["codes", "shift"], ["second"], direction="RIGHT"),
        helper.make_node("Concat", ["first", "second"], ["both"], axis=-1),
        helper.make_node("Slice", ["both", "from", "to", "axis"], ["whole"]),
    ]
    nodes = [
        *(unpacking if bits == 4 else [helper.make_node("Identity", ["codes"], ["whole"])]),
        helper.make_node("Cast", ["whole"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["wide", "scale"], ["by_output"]),
        helper.make_node("Transpose", ["by_output"], ["matrix"], perm=[1, 0]),
        helper.make_node("Gather", ["narrow", "ids"], ["rows"], axis=0),
        helper.make_node("MatMul", ["rows", "matrix"], ["answer"]),
    ]
    graph = small_graph(nodes, weights, {"answer": [None, None, 4]})
    before = answers(graph, tmp_path)
    restore_small_tables(graph.graph)
    ours, theirs = (np.frombuffer(told, np.float32) for told in (answers(graph, tmp_path), before))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert run_at_a_request(graph, tmp_path) == ["Gather", *(["MatMul"] if numbers < 4 * ROWS else [])]


def test_one_column_of_all_rows_is_gathered_at_a_request(tmp_path):
    # The number of the column has no axis, so what is gathered has one less than the rows.
    weights = {
        "table": np.random.default_rng(0).normal(size=(ROWS, 4)).astype(np.float32),
        "column": np.array(2),
        "by_place": np.arange(7, dtype=np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], axis=0),
        helper.make_node("Gather", ["rows", "column"], ["values"], axis=-1),
        helper.make_node("Mul", ["values", "by_place"], ["answer"]),
    ]
    graph = small_graph(nodes, weights, {"answer": [None, None]})
    before = answers(graph, tmp_path)
    restore_small_tables(graph.graph)
    assert answers(graph, tmp_path) == before


def test_rows_that_are_an_output_are_looked_up(tmp_path):
    table = np.random.default_rng(0).normal(size=(ROWS, 4)).astype(np.float16)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], axis=0),
        helper.make_node("Cast", ["rows"], ["answer"], to=TensorProto.FLOAT),
    ]
    graph = small_graph(nodes, {"table": table}, {"answer": [None, None, 4]})
    restore_small_tables(graph.graph)
    assert answers(graph, tmp_path) == table[IDS].astype(np.float32).tobytes()
    assert run_at_a_request(graph, tmp_path) == ["Gather"]
