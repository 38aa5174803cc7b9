"""The contract that every compression method passes, and what theory says of each one's error."""

from __future__ import annotations

from typing import get_args

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from leanrec.compression import fp16, int8_tables
from leanrec.compression.recipes import RECIPES, check_composition, cook, methods_of
from leanrec.config import CompressionSettings, Recipe
from leanrec.errors import CompressionError
from leanrec.export.graph_file import write_graph
from leanrec.export.runtime import GraphSession

METHODS = {method.name: method for methods in RECIPES.values() for method in methods}
LARGEST_SCORE_ERROR = {"fp16": 0.01, "int8_tables": 0.1, "int8_mlp": 0.3}
ROWS, DIM, HIDDEN = 200, 32, 64


def table_graph(table: np.ndarray) -> onnx.ModelProto:
    """The rows of one table, gathered."""
    return _model(
        [helper.make_node("Gather", ["table", "ids"], ["rows"], axis=0)],
        {"table": table},
        {"rows": [None, None, table.shape[1]]},
    )


def small_model() -> onnx.ModelProto:
    """Two tables gathered by the same ids, and a MatMul and a Gemm over their mean."""
    random = np.random.default_rng(0)
    weights = {
        "table": random.normal(size=(ROWS, DIM)),
        "other": random.normal(size=(ROWS, DIM)),
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
    return _model(nodes, typed, {"score": [None, HIDDEN]})


def _model(nodes, constants, outputs) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [None, None])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def answer(graph: onnx.ModelProto, ids: np.ndarray, folder) -> np.ndarray:
    path = folder / "model.onnx"
    write_graph(graph, path)
    onnx.checker.check_model(path, full_check=True)
    (output,) = GraphSession(path).run({"ids": ids}).values()
    return output


@pytest.mark.parametrize("name", METHODS)
class TestEveryMethod:
    """What a new method passes by being in a recipe, with its error stated above."""

    def test_scores_stay_close_in_fewer_bytes_behind_the_same_interface(self, name, tmp_path):
        graph, ids = small_model(), np.random.default_rng(1).integers(0, ROWS, (40, 7))
        compressed = METHODS[name].apply(graph)
        assert compressed.graph.input == graph.graph.input
        assert compressed.graph.output == graph.graph.output
        assert compressed.opset_import == graph.opset_import  # no operator that an older runtime lacks
        assert compressed.ByteSize() < 0.8 * graph.ByteSize()
        difference = np.abs(answer(compressed, ids, tmp_path) - answer(graph, ids, tmp_path)).max()
        assert 0 < difference < LARGEST_SCORE_ERROR[name]

    def test_the_same_graph_gives_the_same_bytes_and_stays_as_it_was(self, name):
        graph = small_model()
        before = graph.SerializeToString(deterministic=True)
        first, second = (METHODS[name].apply(graph).SerializeToString(deterministic=True) for _ in range(2))
        assert first == second
        assert graph.SerializeToString(deterministic=True) == before

    def test_a_graph_without_such_weights_is_refused(self, name):
        graph = table_graph(np.ones((4, 4), np.float32))
        with pytest.raises(CompressionError, match=f"{name}: the graph has no"):
            METHODS[name].apply(graph)


def tables():
    shape = st.tuples(st.integers(130, 160), st.integers(4, 9))
    scale = st.sampled_from([1e-6, 1e-2, 1.0, 1e3])
    values = shape.flatmap(lambda s: hnp.arrays(np.float32, s, elements=st.floats(-1, 1, width=32)))
    return st.tuples(values, scale).map(lambda pair: (pair[0] * np.float32(pair[1])).astype(np.float32))


@settings(max_examples=50, deadline=None)
@given(tables())
def test_an_8_bit_table_is_off_by_half_a_step_at_most(table):
    quantized = int8_tables.quantize(table)
    error = np.abs(quantized.restored().astype(np.float64) - table)
    assert (error <= quantized.largest_error()).all()
    assert quantized.rows.dtype == np.int8 and np.abs(quantized.rows.astype(int)).max() <= 127


@settings(max_examples=50, deadline=None)
@given(tables())
def test_a_half_precision_table_is_off_by_2_to_the_minus_11_at_most(table):
    error = np.abs(table.astype(np.float16).astype(np.float64) - table)
    assert (error <= fp16.largest_error(table)).all()


@pytest.mark.parametrize("spread", [1.0, 100.0])
def test_the_graph_restores_a_table_exactly_as_stated(tmp_path, spread):
    table = np.random.default_rng(2).normal(size=(150, 16)).astype(np.float32)
    table[:, 3] *= spread
    table[5] = 0
    quantized = int8_tables.quantize(table)
    assert (quantized.columns is not None) == (spread > 1)
    rows = answer(int8_tables.INT8_TABLES.apply(table_graph(table)), np.arange(150)[None], tmp_path)[0]
    np.testing.assert_array_equal(rows, quantized.restored())
    assert not rows[5].any()


def test_a_table_that_half_precision_cannot_hold_stays_as_it_is(tmp_path):
    table = np.full((150, 16), 1e6, np.float32)
    rows = answer(fp16.FP16.apply(table_graph(table)), np.arange(150)[None], tmp_path)[0]
    np.testing.assert_array_equal(rows, table)


def test_int8_is_smaller_than_either_half_of_it():
    sizes = {name: cook(methods_of(name), small_model()).ByteSize() for name in RECIPES}
    assert sizes["int8"] < min(sizes["int8_tables"], sizes["int8_mlp"], sizes["fp16"]) < sizes["fp32"]


def test_an_unknown_recipe_offers_the_nearest_name():
    with pytest.raises(CompressionError, match="no recipe 'int8_table'; did you mean 'int8_tables'"):
        methods_of("int8_table")


def test_methods_that_rewrite_the_same_weights_do_not_compose():
    check_composition([int8_tables.INT8_TABLES, METHODS["int8_mlp"]])
    with pytest.raises(CompressionError, match="int8_tables and fp16 both rewrite the tables weights"):
        check_composition([int8_tables.INT8_TABLES, fp16.FP16])


def test_the_settings_know_every_recipe() -> None:
    assert get_args(Recipe) == tuple(RECIPES) == CompressionSettings().recipes
