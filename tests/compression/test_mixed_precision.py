"""Mixed precision by table and by row, and fine-tuning with rounded weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper
from small_graph import table_graph
from torch.nn.utils import parametrize

from leanrec.compression.footprint import SPLIT_NODES
from leanrec.compression.methods import int4, int8_tables, mixed_tables, quantization_aware
from leanrec.compression.methods.mixed_tables import MIXED_TABLES, Form, narrow, split
from leanrec.compression.methods.quantization_aware import Rounded
from leanrec.compression.source import CompressionSource
from leanrec.compression.storage import Stored, store_matrices
from leanrec.config.methods import MixedTables, QuantizationAware
from leanrec.errors import CompressionError
from leanrec.export.graph_file import write_graph
from leanrec.export.runtime import GraphSession

NOTHING = Stored(by_row={}, restore=lambda nodes, parts: "")
FLOATS = hnp.arrays(
    np.float32, st.tuples(st.integers(2, 12), st.integers(2, 40)), elements=st.floats(-4, 4, width=32)
)


def form(num_bytes: int, error: float) -> Form:
    return Form(stored=NOTHING, num_bytes=num_bytes, error=error)


@pytest.mark.parametrize(
    ("max_error", "last"),
    [
        (0.001, None),  # not even the widest forms
        (0.01, {"calm": 0, "touchy": 0}),
        (0.03, {"calm": 1, "touchy": 0}),  # the table that bears it goes first
        (0.06, {"calm": 2, "touchy": 0}),
        (0.60, {"calm": 2, "touchy": 2}),
    ],
)
def test_the_table_that_saves_most_for_its_error_is_narrowed_first(max_error: float, last: dict | None):
    forms = {
        "calm": [form(1600, 0.002), form(800, 0.02), form(400, 0.05)],
        "touchy": [form(1600, 0.002), form(800, 0.2), form(400, 0.5)],
    }
    way = narrow(forms, max_error)
    assert (way[-1] if way else None) == last
    if way:
        assert way[0] == {"calm": 0, "touchy": 0}


def graph_of(**tables: np.ndarray) -> onnx.ModelProto:
    """score = the sum of 1 * first + 0.01 * second ... over the tables' gathered rows."""
    nodes, terms = [], []
    constants = {"axis": np.array([2])}
    for power, (name, table) in enumerate(tables.items()):
        constants |= {name: table, f"{name}_weight": np.array(0.01**power, np.float32)}
        nodes += [
            helper.make_node("Gather", [name, "ids"], [f"{name}_rows"], axis=0),
            helper.make_node("Mul", [f"{name}_rows", f"{name}_weight"], [f"{name}_term"]),
        ]
        terms.append(f"{name}_term")
    nodes += [
        helper.make_node("Sum", terms, ["sum"]),
        helper.make_node("ReduceSum", ["sum", "axis"], ["score"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "tables",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [None, None])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, None])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def random_table(rows: int = 1000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 32)).astype(np.float32)


def requests() -> dict[str, np.ndarray]:
    return {"ids": np.random.default_rng(2).zipf(1.4, size=(128, 6)) % 1000}


def parts_of(graph: onnx.ModelProto, table: str) -> set[str]:
    return {
        t.name.removeprefix(f"{table}/") for t in graph.graph.initializer if t.name.startswith(f"{table}/")
    }


def test_the_table_that_decides_the_scores_keeps_more_bits():
    graph = graph_of(loud=random_table(), quiet=random_table(seed=1))
    found = MIXED_TABLES.apply(graph, MixedTables(max_error=0.01, hot_share=0.0), requests)
    assert "int8" in parts_of(found, "loud") or "half" in parts_of(found, "loud")
    assert "int4" in parts_of(found, "quiet")


def test_hot_rows_are_wider_than_cold_ones_where_4_bits_are_too_few():
    graph = graph_of(only=random_table())
    found = MIXED_TABLES.apply(graph, MixedTables(max_error=0.035, hot_share=0.3), requests)
    assert {"hot/int8", "cold/int4", "place"} <= parts_of(found, "only")


def test_a_bound_that_nothing_keeps_is_refused():
    with pytest.raises(CompressionError, match="more than max_error 1e-09 of their"):
        MIXED_TABLES.apply(graph_of(only=random_table()), MixedTables(max_error=1e-9), requests)


def test_split_rows_are_those_of_their_forms_bit_for_bit(tmp_path):
    table, counts = random_table(), np.random.default_rng(3).permutation(1000)
    graph = graph_of(only=table)
    store_matrices(graph.graph, {"only": split(table, counts, 100, block=8)})
    onnx.checker.check_model(graph, full_check=True)
    path = tmp_path / "model.onnx"
    write_graph(graph, path)
    ids = np.arange(1000).reshape(-1, 1)
    expected = np.empty_like(table)
    hot = counts >= 900
    expected[hot] = int8_tables.quantize(table[hot]).restored()
    expected[~hot] = int4.quantize(table[~hot], 8).restored()
    (score,) = GraphSession(path).run({"ids": ids}).values()
    np.testing.assert_allclose(score[:, 0], expected.sum(axis=1), rtol=1e-5, atol=1e-5)


def test_few_hot_rows_are_not_worth_a_map():
    forms = mixed_tables._forms_of(random_table(200), np.arange(200), MixedTables(hot_share=0.1))
    assert len(forms) == 3


def test_nodes_that_look_up_hot_and_cold_rows_apart_are_no_more_than_planned():
    table = np.random.default_rng(0).normal(size=(2_000, 17)).astype(np.float32)
    described = []
    for stored in (int4.store(table, 4), mixed_tables.split(table, np.arange(2_000), 200, 4)):
        graph = table_graph(table)
        store_matrices(graph.graph, {"table": stored})
        described.append(graph.ByteSize() - sum(len(tensor.raw_data) for tensor in graph.graph.initializer))
    assert described[1] - described[0] <= SPLIT_NODES


def served_as(bits: int, block: int, symmetric: bool, table: np.ndarray) -> np.ndarray:
    """`table` as the method on the graph restores it, columns left as they are."""
    if bits == 4:
        return int4.quantize(table, block).restored()
    return int8_tables.quantize(table, block, symmetric).restored()


ROUNDINGS = [(8, 0, True), (8, 3, True), (8, 0, False), (8, 3, False), (4, 0, False), (4, 3, False)]
"""Bits, block, and whether symmetric."""


@pytest.mark.parametrize(("bits", "block", "symmetric"), ROUNDINGS)
@settings(max_examples=60, deadline=None)
@given(table=FLOATS)
def test_rounding_while_training_is_within_half_a_step_of_the_weight(table, bits, block, symmetric):
    rounded = Rounded(bits, block, symmetric=symmetric)(torch.from_numpy(table)).numpy()
    for at in range(0, table.shape[1], block or table.shape[1]):
        columns = slice(at, at + (block or table.shape[1]))
        part = table[:, columns]
        if symmetric:
            step = np.abs(part).max(axis=1) / (2 ** (bits - 1) - 1)
        else:
            low, high = part.min(axis=1), part.max(axis=1)
            smallest = 2.0 ** (-24 if bits == 8 else -14)
            step = (high - low + 2.0**-10 * np.abs(low)) / (2**bits - 1) * (1 + 2.0**-10) + smallest
        assert (np.abs(rounded[:, columns] - part) <= step[:, None] / 2 * 1.001 + 1e-6).all()


@pytest.mark.parametrize(("least", "most"), [(-1, 1), (5 - 1 / 64, 5 + 1 / 64), (-3.1, -3)])
@pytest.mark.parametrize(("bits", "block", "symmetric"), ROUNDINGS)
def test_rounding_while_training_is_that_of_the_method_on_the_graph(bits, block, symmetric, least, most):
    """Of rows about zero, and of rows whose numbers lie close together: nearly all numbers are the same."""
    table = np.random.default_rng(0).uniform(least, most, (400, 16)).astype(np.float32)
    rounded = Rounded(bits, block, symmetric=symmetric)(torch.from_numpy(table)).numpy()
    served = served_as(bits, block, symmetric, table)
    step = max(abs(least), most) / 127 if symmetric else (most - least) / (2**bits - 1)
    assert (np.abs(rounded - served) < step / 4).mean() > 0.95


@pytest.mark.parametrize(("bits", "block", "symmetric"), ROUNDINGS)
def test_the_gradient_passes_as_if_nothing_had_been_rounded(bits, block, symmetric):
    matrix = torch.randn(5, 8, requires_grad=True)
    (Rounded(bits, block, symmetric=symmetric)(matrix) * torch.arange(8)).sum().backward()
    assert torch.equal(matrix.grad, torch.arange(8.0).expand(5, 8))


@pytest.mark.parametrize(
    ("given_settings", "of_tables", "of_layers"),
    [
        ({}, (8, 0, True), (8, 0, True)),
        ({"block": 4}, (8, 0, True), (8, 0, True)),
        ({"int8_block": 4, "int8_symmetric": False}, (8, 4, False), (8, 0, True)),
        ({"table_bits": 4, "dense_bits": 4, "block": 4}, (4, 4, False), (4, 4, False)),
    ],
    ids=str,
)
def test_tables_and_layers_are_rounded_as_the_settings_say(given_settings, of_tables, of_layers):
    told = QuantizationAware(**given_settings)
    tables = quantization_aware._of_tables(told)
    layers = quantization_aware._of_layers(told.dense_bits, told.block)
    assert (tables.bits, tables.block, tables.symmetric) == of_tables
    assert (layers.bits, layers.block, layers.symmetric) == of_layers


@pytest.mark.parametrize(("dense_bits", "of_layers"), [(8, [8]), (4, [4]), (None, [])])
def test_each_weight_is_rounded_once_as_its_kind_asks(monkeypatch, tiny_export, dense_bits, of_layers):
    seen: dict[type, set[tuple[int, ...]]] = {torch.nn.Embedding: set(), torch.nn.Linear: set()}

    def look(recommender, source, settings):
        for module in recommender.modules():
            for kind, found in seen.items():
                if isinstance(module, kind):
                    is_rounded = parametrize.is_parametrized(module, "weight")
                    steps = module.parametrizations.weight if is_rounded else ()
                    found.add(tuple(step.bits for step in steps))
        return recommender

    monkeypatch.setattr(quantization_aware, "fine_tune", look)
    source = CompressionSource(**tiny_export._asdict())
    before = {name: value.clone() for name, value in source.recommender.state_dict().items()}
    settings = QuantizationAware(table_bits=4, dense_bits=dense_bits)
    after = quantization_aware.change(source.recommender, settings, source).state_dict()
    assert seen == {torch.nn.Embedding: {(4,)}, torch.nn.Linear: {tuple(of_layers)}}
    assert after.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
