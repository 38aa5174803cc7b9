"""The step: every recipe on the front with its figures, the chosen one whole, bad input named."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tiny_model import make_tiny_model

from leanrec.compression.compress import compress_models
from leanrec.compression.measure import Candidate
from leanrec.config import CompressionSettings, ReleaseSettings
from leanrec.errors import CompressionError, ExportError
from leanrec.export.golden import read_golden
from leanrec.export.graphs import export_graphs
from leanrec.files import read_json
from leanrec.schema import MODELS, RECOMMENDER

ANYTHING_GOES = {"max_auc_loss": 1.0, "max_ndcg_loss": 1.0}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compress")
    tiny = make_tiny_model(folder)
    settings = ReleaseSettings(repository="unused", num_golden=12)
    export_graphs(settings, **tiny._asdict(), output=folder / "graphs")
    return {"graphs": folder / "graphs", "features": tiny.features, "training_set": tiny.training_set}


def test_the_front_holds_every_recipe_and_the_choice(paths, tmp_path):
    settings = CompressionSettings(recipes=("fp16", "int8"), alpha=0.0, **ANYTHING_GOES)
    figures = compress_models(settings, **paths, output=tmp_path / "out")
    front = read_json(tmp_path / "out" / "front.json")
    rows = {row["recipe"]: row for row in front["candidates"]}
    assert list(rows) == ["fp32", "fp16", "int8"]
    assert front["chosen"] == figures["chosen"] and front["chosen"] in front["reason"]
    assert rows["int8"]["bytes"] < rows["fp16"]["bytes"] < rows["fp32"]["bytes"]
    assert rows["fp32"]["auc_loss"] == rows["fp32"]["ndcg_loss"] == 0 and "test" in rows["fp32"]
    for row in rows.values():
        assert row["resident_bytes"] > 0
        assert 0 < row["latency_ms"]["p50"] <= row["latency_ms"]["p95"] <= row["latency_ms"]["p99"]
        assert all(0 <= row[name] <= 1 for name in ("auc", "ece", "ndcg@10"))


@pytest.mark.parametrize("budget", [None, 1])
def test_the_chosen_folder_keeps_the_trainers_answers_and_states_a_bound_it_keeps(paths, tmp_path, budget):
    settings = CompressionSettings(recipes=("int8",), max_bytes=budget, alpha=1.0, **ANYTHING_GOES)
    compress_models(settings, **paths, output=tmp_path / "out")
    chosen = tmp_path / "out" / "chosen"
    golden, exported = read_golden(chosen), read_golden(paths["graphs"])
    assert {p.name for p in chosen.iterdir()} == {p.name for p in paths["graphs"].iterdir()}
    assert golden.recipe == read_json(tmp_path / "out" / "front.json")["chosen"]
    for model in MODELS:
        for name, value in exported.outputs[model].items():
            np.testing.assert_array_equal(golden.outputs[model][name], value)
    difference = Candidate.load("chosen", chosen).score_difference(golden)
    assert difference <= golden.bound < 1 and golden.how
    if budget:
        assert golden.recipe == "fp32" and golden.bound == exported.bound


def test_an_unknown_recipe_stops_before_anything_is_written(paths, tmp_path):
    with pytest.raises(CompressionError, match="did you mean 'int8_mlp'"):
        compress_models(CompressionSettings(recipes=("int8_mpl",)), **paths, output=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_missing_graph_is_named(paths, tmp_path):
    graphs = tmp_path / "graphs"
    graphs.mkdir()
    for file in ("golden.safetensors", "golden.json"):
        (graphs / file).write_bytes((paths["graphs"] / file).read_bytes())
    with pytest.raises(ExportError, match=r"recommender/model\.onnx"):
        compress_models(CompressionSettings(), **{**paths, "graphs": graphs}, output=tmp_path / "out")


def test_the_trainers_golden_answers_are_finite(paths):
    assert all(
        math.isfinite(score) for score in read_golden(paths["graphs"]).outputs[RECOMMENDER]["score"].flat
    )
