"""Compressed graphs in the serving environment's own ONNX Runtime: the same answers, bit for bit."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from leanrec.compression.recipes import cook
from leanrec.compression.source import CompressionSource
from leanrec.config import Recipe
from leanrec.export.golden import read_golden
from leanrec.export.graph_file import graph_path, read_graph, write_graph
from leanrec.export.runtime import GraphSession
from leanrec.schema import MODELS
from serving.environment import find_environment

pytestmark = pytest.mark.integration

ANSWER = """
import sys
import numpy as np
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
inputs = dict(np.load(sys.argv[2]))
feed = {value.name: inputs[value.name] for value in session.get_inputs()}
names = [value.name for value in session.get_outputs()]
np.savez(sys.argv[3], **dict(zip(names, session.run(names, feed))))
"""
"""As the backend in Triton runs a graph, without Triton."""
CALIBRATED = {"num_requests": 64, "max_clipped": 0.1}


@pytest.mark.parametrize(
    "steps",
    [
        ["int8_tables", {"int8_static": CALIBRATED}],
        ["int8_tables", "int8_mlp"],
        ["int8_tables", "int8_dense"],
        [{"int8_tables": {"block": 8}}],
        [{"int8_tables": {"symmetric": False}}],
        [{"int8_tables": {"block": 8, "symmetric": False}}],
        [{"product_quantized_tables": {"bits": 1}}, "int8_dense"],
        [{"int4_tables": {"block": 8}}, {"int8_static": CALIBRATED}],
        ["int4_tables", {"int4_dense": {"block": 8}}],
    ],
    ids=str,
)
def test_both_environments_answer_the_same_bits(steps: list, tiny_export, tmp_path: Path) -> None:
    recipe = Recipe.parse({"name": "tried", "steps": steps})
    source = CompressionSource(**tiny_export._asdict())
    python = find_environment().programs / "python"
    for model in MODELS:
        path = tmp_path / f"{model}.onnx"
        write_graph(
            cook(recipe, read_graph(graph_path(source.graphs, model)), partial(source.requests, model)), path
        )
        inputs = read_golden(source.graphs).inputs[model]
        np.savez(tmp_path / "inputs.npz", **inputs)
        files = [path, tmp_path / "inputs.npz", tmp_path / "answers.npz"]
        subprocess.run([python, "-c", ANSWER, *files], check=True, timeout=120)
        here, there = GraphSession(path).run(inputs), np.load(tmp_path / "answers.npz")
        assert here.keys() == set(there.files)
        for name, value in here.items():
            assert value.dtype == there[name].dtype and value.tobytes() == there[name].tobytes(), name
