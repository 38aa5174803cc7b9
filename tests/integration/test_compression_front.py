"""Candidates in the real Triton: whole figures, and the answers of ONNX Runtime bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from leanrec.compression.measure import Candidate
from leanrec.compression.recipes import cook, write_compressed
from leanrec.compression.served import measure_in_triton, resident_in
from leanrec.compression.source import CompressionSource
from leanrec.config import Recipe
from leanrec.export.golden import read_golden
from leanrec.export.graph_file import write_graph
from leanrec.export.graphs import SPEC_FILE
from leanrec.files import read_json
from leanrec.schema import RECOMMENDER, ModelSpec, TensorSpec
from leanrec.triton.embedded_server import embedded_server
from leanrec.triton.model_configuration import ModelConfiguration
from leanrec.triton.staging import stage_model

pytestmark = pytest.mark.integration

RECIPES = [
    Recipe.parse({"name": "fp32"}),
    Recipe.parse({"name": "eight", "steps": ["int8_tables", "int8_mlp"]}),
    Recipe.parse({"name": "eight_in_blocks", "steps": [{"int8_tables": {"block": 8}}]}),
    Recipe.parse({"name": "eight_from_the_least", "steps": [{"int8_tables": {"symmetric": False}}]}),
    Recipe.parse({"name": "eight_of_both", "steps": [{"int8_tables": {"block": 8, "symmetric": False}}]}),
    Recipe.parse({"name": "four", "steps": [{"int4_tables": {"block": 8}}, "int8_mlp"]}),
    Recipe.parse({"name": "four_throughout", "steps": ["int4_tables", "int4_dense"]}),
]


def test_quantized_candidates_answer_in_triton_what_they_answer_here_bit_for_bit(tiny_export, tmp_path):
    graphs = tiny_export.graphs
    source = CompressionSource(**tiny_export._asdict())
    candidates = []
    for recipe in RECIPES:
        folder = graphs if recipe.name == "fp32" else tmp_path / recipe.name
        if folder != graphs:
            write_compressed(recipe, source, folder)
        candidates.append(Candidate.load(recipe.name, folder))
    served = measure_in_triton(
        candidates,
        read_golden(graphs).inputs[RECOMMENDER],
        ModelSpec(**read_json(graphs / SPEC_FILE)),
        merged={recipe.name: not recipe.scales_by_batch for recipe in RECIPES},
    )
    assert list(served) == [recipe.name for recipe in RECIPES]
    for found in served.values():
        assert found.resident_bytes > 10_000_000  # Triton and the runtime at least
        for graph in (found.recommender, found.ranker):
            assert graph.bit_equal
            for latency in (graph.latency_ms, graph.latency_many_ms):
                assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]


ROWS, COLUMNS = 20_000, 64
"""5 MB of float32, few enough rows to be restored when the graph is loaded."""


def one_table() -> onnx.ModelProto:
    """A graph that gathers rows of one table."""
    values = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["rows"], axis=0)],
        "one_table",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch"])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["batch", COLUMNS])],
        [numpy_helper.from_array(values, "table")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def resident_with(steps: list, folder: Path) -> int:
    """What a Triton holds that serves `one_table` after `steps`, and nothing else."""
    write_graph(cook(Recipe.parse({"name": "tried", "steps": steps}), one_table()), folder / "model.onnx")
    configuration = ModelConfiguration(
        name="one_table",
        max_batch_size=0,
        inputs=(TensorSpec(name="ids", dtype="INT64", shape=(-1,)),),
        outputs=(TensorSpec(name="rows", dtype="FP32", shape=(-1, COLUMNS)),),
        versions=(1,),
    )
    stage_model(folder / "models", configuration, {1: folder})
    with embedded_server(folder / "models", folder / "announcement.json") as server:
        return resident_in(server)


def test_a_restored_table_leaves_nothing_behind_in_the_servers_memory(tmp_path):
    """Its parts and what is between them and the whole are given back when the graph is loaded."""
    plain = resident_with([], tmp_path / "plain")
    blocks = resident_with([{"int4_tables": {"block": 32}}], tmp_path / "blocks")
    assert blocks - plain < 5_000_000  # it was 20 million
