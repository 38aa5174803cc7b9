"""The step: every recipe on the front with its figures, the chosen one whole, bad input named."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leanrec.compression.compress import compress_models
from leanrec.compression.measure import Candidate
from leanrec.compression.recipes import write_compressed
from leanrec.compression.source import CompressionSource
from leanrec.config import CompressionSettings, Recipe
from leanrec.errors import CompressionError, ExportError
from leanrec.evaluation.protocol import load_protocol
from leanrec.export.agreement import compare_ranker
from leanrec.export.golden import read_golden
from leanrec.export.graph_file import graph_path
from leanrec.export.graphs import INDEX_FILE
from leanrec.files import read_json, write_json
from leanrec.schema import MODELS, RANKER, RECOMMENDER

ANYTHING_GOES = {"max_auc_loss": 1.0, "max_ndcg_loss": 1.0, "shortlist": 0}


@pytest.fixture(scope="module")
def paths(tiny_export, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compress")
    return {**tiny_export._asdict(), "evaluation": write_evaluation(folder / "evaluation", {})}


def write_evaluation(folder: Path, baselines: dict[str, float]) -> Path:
    """As much of an `evaluation` folder as the gate of compression reads."""
    retrieval = {name: {"ndcg@10": value} for name, value in baselines.items()}
    write_json(folder / "evaluation.json", {"must_beat": list(baselines), "retrieval": retrieval})
    return folder


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


def test_the_steps_in_the_front_give_the_chosen_bytes_again(paths, tmp_path):
    steps = [{"int4_tables": {"block": 8}}, {"int8_static": {"num_requests": 64, "max_clipped": 0.1}}]
    less = sum(graph_path(paths["graphs"], model).stat().st_size for model in MODELS) - 1
    given = {"recipes": [{"name": "mine", "steps": steps}], "max_bytes": less}
    settings = CompressionSettings.parse({**given, **ANYTHING_GOES})
    compress_models(settings, **paths, output=tmp_path / "out")
    front = read_json(tmp_path / "out" / "front.json")
    assert front["chosen"] == "mine"
    artifacts = {name: path for name, path in paths.items() if name != "evaluation"}
    again = Recipe.parse({"name": "again", "steps": front["steps"]})
    write_compressed(again, CompressionSource(**artifacts), tmp_path / "again")
    for model in MODELS:
        chosen = graph_path(tmp_path / "out" / "chosen", model).read_bytes()
        assert graph_path(tmp_path / "again", model).read_bytes() == chosen


@pytest.mark.parametrize("budget", [None, 1])
def test_the_chosen_folder_keeps_the_trainers_answers_and_states_a_bound_it_keeps(paths, tmp_path, budget):
    settings = CompressionSettings(recipes=("int8",), max_bytes=budget, alpha=0.0, **ANYTHING_GOES)
    compress_models(settings, **paths, output=tmp_path / "out")
    chosen = tmp_path / "out" / "chosen"
    golden, exported = read_golden(chosen), read_golden(paths["graphs"])
    left = {INDEX_FILE}  # of no use once the graphs are made
    assert {p.name for p in chosen.iterdir()} == {p.name for p in paths["graphs"].iterdir()} - left
    assert golden.recipe == read_json(tmp_path / "out" / "front.json")["chosen"]
    for model in MODELS:
        for name, value in exported.outputs[model].items():
            np.testing.assert_array_equal(golden.outputs[model][name], value)
    lists, scores = Candidate.load("chosen", chosen).compare(golden)
    assert max(lists.largest_ratio, scores.largest_ratio) < 1.25 and lists.shared_top_10 > 0.9
    assert golden.bound == exported.bound
    merged = read_json(tmp_path / "out" / "front.json")["merge_requests"]
    assert (golden.recipe, merged) == (("fp32", True) if budget else ("int8", False))


def test_graphs_of_a_changed_model_are_held_against_that_model_and_the_trainers_answers_stay(paths, tmp_path):
    less = sum(graph_path(paths["graphs"], model).stat().st_size for model in MODELS) - 1
    steps = [{"prune_dimensions": {"retriever_dim": 4, "ranker_epochs": 0}}, "int8_tables"]
    given = {"recipes": [{"name": "narrow", "steps": steps}], "max_bytes": less}
    compress_models(CompressionSettings.parse({**given, **ANYTHING_GOES}), **paths, output=tmp_path / "out")
    chosen = tmp_path / "out" / "chosen"
    golden, exported = read_golden(chosen), read_golden(paths["graphs"])
    assert golden.recipe == "narrow" and exported.changed is None and "the recipe made" in golden.how
    for model in MODELS:
        for name, value in exported.outputs[model].items():
            np.testing.assert_array_equal(golden.outputs[model][name], value)
    lists, scores = Candidate.load("chosen", chosen).compare(golden)
    assert max(lists.largest_ratio, scores.largest_ratio) < 1.25 and lists.shared_top_10 > 0.9
    apart = compare_ranker(golden.outputs[RANKER], golden.expected[RANKER])
    assert apart.largest > 10 * scores.largest  # the models differ, their graphs do not


@pytest.mark.parametrize(("baseline", "passed"), [(0.0001, True), (0.9999, False), ("equal", False)])
def test_what_is_released_must_be_better_than_the_baselines(paths, tmp_path, baseline, passed):
    settings = CompressionSettings(recipes=("int8",), alpha=0.0, **ANYTHING_GOES)
    if baseline == "equal":
        compress_models(settings, **paths, output=tmp_path / "before")
        front = read_json(tmp_path / "before" / "front.json")
        rows = {row["recipe"]: row for row in front["candidates"]}
        baseline = rows[front["chosen"]]["test"]["ndcg@10"]
    evaluation = write_evaluation(tmp_path / "evaluation", {"item_knn": baseline})
    figures = compress_models(settings, **{**paths, "evaluation": evaluation}, output=tmp_path / "out")
    gate = read_json(tmp_path / "out" / "gate.json")
    assert (figures["passed"], gate["gate"], gate["passed"]) == (passed, "compression", passed)
    check = gate["checks"][0]
    assert check["figure"] == f"ndcg@10 of {figures['chosen']} against item_knn"
    assert "95 % interval" in check["detail"] and check["passed"] is passed


def write_training_set(path: Path, tiny_export, likes: dict[str, Path]) -> Path:
    """The training set in which users like what the ranker in `likes[split]` says that they do."""
    table = pq.read_table(tiny_export.training_set)
    ratings = table["rating"].to_numpy().copy()
    for split, graphs in likes.items():
        pairs = load_protocol(tiny_export.features, tiny_export.training_set, split).pairs
        like, _ = Candidate.load(split, graphs).rate(pairs)
        rows = np.flatnonzero(table["split"].to_numpy(zero_copy_only=False) == split)
        ratings[rows] = np.where(like > np.median(like), 5.0, 2.0)
    for name, values in (("rating", pa.array(ratings)), ("liked", pa.array(ratings >= 4))):
        table = table.set_column(table.column_names.index(name), name, values)
    pq.write_table(table, path)
    return path


@pytest.mark.parametrize("others", [[], ["fp16"]])
def test_what_test_shows_to_miss_the_floor_is_set_aside_for_the_next_one(
    paths, tiny_export, tmp_path, others
):
    """A coarse recipe that is right on valid and wrong on test."""
    coarse = Recipe.parse({"name": "coarse", "steps": [{"factorize_tables": {"rank": 1}}, "fp16"]})
    source = CompressionSource(**tiny_export._asdict())
    write_compressed(coarse, source, tmp_path / "coarse")
    likes = {"valid": tmp_path / "coarse", "test": tiny_export.graphs}
    training_set = write_training_set(tmp_path / "training_set.parquet", tiny_export, likes)
    settings = CompressionSettings(
        recipes=(coarse, *others), alpha=0.0, max_auc_loss=0.02, max_ndcg_loss=1.0, tie=1.0, shortlist=0
    )
    given = {**paths, "training_set": training_set}
    figures = compress_models(settings, **given, output=tmp_path / "out")
    released = others[0] if others else "fp32"
    assert (figures["chosen"], figures["set_aside"], figures["passed"]) == (released, ["coarse"], True)
    front, gate = (read_json(tmp_path / "out" / name) for name in ("front.json", "gate.json"))
    rows = {row["recipe"]: row for row in front["candidates"]}
    assert rows["coarse"]["auc_loss"] < 0 < 0.02 < rows["coarse"]["test_intervals"]["auc_loss"]["low"]
    assert rows["coarse"]["why_not"].startswith("on test AUC falls by") and not rows["coarse"]["within_floor"]
    assert front["chosen"] == released and front["set_aside"] == ["coarse"]
    assert "preferred on valid, and set aside: coarse (on test AUC falls by" in front["reason"]
    assert others or "no recipe is within the quality floor, so fp32 is released" in front["reason"]
    assert {row for row in rows if "test" in rows[row]} == {"fp32", "coarse", released}
    assert gate["passed"] and all(f"that {released} loses on test" in c["figure"] for c in gate["checks"])
    assert read_golden(tmp_path / "out" / "chosen").recipe == released


def test_more_recipes_than_fit_into_one_triton_are_refused_with_the_way_out(paths, tmp_path, monkeypatch):
    monkeypatch.setattr("leanrec.compression.compress.available_memory", lambda: 2**20)
    settings = CompressionSettings(recipes=("fp16",), **{**ANYTHING_GOES, "shortlist": None})
    with pytest.raises(
        CompressionError, match=r"shortlist: 2 recipes in one Triton need .* 1\.0 MiB are free"
    ):
        compress_models(settings, **paths, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_evaluation_without_baselines_is_named(paths, tmp_path):
    write_json(tmp_path / "evaluation.json", {})
    with pytest.raises(ExportError, match=r"evaluation\.json: .*evaluate the models again"):
        compress_models(CompressionSettings(), **{**paths, "evaluation": tmp_path}, output=tmp_path / "out")


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
