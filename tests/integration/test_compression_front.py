"""Candidates in the real Triton: whole figures, and the answers of ONNX Runtime bit for bit."""

from __future__ import annotations

import pytest

from leanrec.compression.measure import Candidate
from leanrec.compression.recipes import write_compressed
from leanrec.compression.served import measure_in_triton
from leanrec.compression.source import CompressionSource
from leanrec.config import Recipe
from leanrec.export.golden import read_golden
from leanrec.export.graphs import SPEC_FILE
from leanrec.files import read_json
from leanrec.schema import RECOMMENDER, ModelSpec

pytestmark = pytest.mark.integration

RECIPES = [
    Recipe.parse({"name": "fp32"}),
    Recipe.parse({"name": "eight", "steps": ["int8_tables", "int8_mlp"]}),
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
