"""The gates before a release, with real graphs: the first one, an equal one, a broken one, missed bounds."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tiny_release import SPEC as OTHER_SPEC

from leanrec.config import EvaluationSettings, ReleaseSettings
from leanrec.errors import ReleaseError
from leanrec.files import read_json, write_json
from leanrec.release.judgement import judge_release, rows_for
from leanrec.release.state import published
from leanrec.schema import MODELS, ModelSpec

SETTINGS = EvaluationSettings(min_segment_users=5, max_calibration_error=1.0, fairness_attributes=("taste",))
LENIENT = {"max_popularity_lift": 100.0, "min_tail_exposure": 0.0, "max_auc_gap": 1.0}


@pytest.fixture(scope="module")
def made(tiny_export) -> Path:
    return tiny_export.graphs.parent


def compressed_of(made: Path, folder: Path, scale: float = 1.0) -> Path:
    """A `compressed` artifact whose ranker weights are those of the export times `scale`."""
    chosen = folder / "compressed" / "chosen"
    shutil.copytree(made / "graphs", chosen)
    if scale != 1.0:
        for model in MODELS:
            spoil(chosen / model / "model.onnx", scale)
    return chosen.parent


def spoil(path: Path, scale: float) -> None:
    graph = onnx.load(path)
    for tensor in graph.graph.initializer:
        if tensor.name.endswith("ranker.by_side.bias"):
            value = numpy_helper.to_array(tensor) * np.float32(scale)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    onnx.save(graph, path)


def serve(made: Path, repository: Path, answers: Path | None = None) -> None:
    """Let `repository` serve the export, as release 1."""
    for model in MODELS:
        shutil.copytree((answers or made / "graphs") / model, repository / model / "1")
    shutil.copyfile(made / "graphs" / "spec.json", _folder(repository) / "spec.json")
    write_json(repository / "release.json", published(None, 1, keep=2, at="now").to_json())


def _folder(repository: Path) -> Path:
    folder = repository / "recommender" / "1" / "release"
    folder.mkdir()
    return folder


def judged(made: Path, folder: Path, compressed: Path, **settings) -> tuple[bool, dict, dict]:
    passed = judge_release(
        SETTINGS.model_copy(update={**LENIENT, **settings}),
        ReleaseSettings(repository=str(folder / "models")),
        graphs=made / "graphs",
        compressed=compressed,
        features=made / "features",
        training_set=made / "training_set.parquet",
        output=folder / "judgement",
    )
    out = folder / "judgement"
    return passed, read_json(out / "gate.json"), read_json(out / "judgement.json")


def test_the_first_release_is_held_against_its_uncompressed_form_alone(made, tmp_path):
    passed, gate, judgement = judged(made, tmp_path, compressed_of(made, tmp_path))
    assert passed and list(judgement["comparisons"]) == ["the uncompressed form"]
    values = {check["figure"]: check["value"] for check in gate["checks"]}
    assert values["held against the serving release"] == "none serves yet"
    groups = {group["group"]: group for group in judgement["auc_by_group"]["taste"]}
    assert list(groups) == ["unknown", "1", "2"] and groups["unknown"]["auc"] is None
    assert groups["1"]["num_users"] + groups["2"]["num_users"] == 30


def test_a_release_as_good_as_the_serving_one_passes(made, tmp_path):
    serve(made, tmp_path / "models")
    passed, _, judgement = judged(made, tmp_path, compressed_of(made, tmp_path))
    assert passed and list(judgement["comparisons"]) == ["the uncompressed form", "release 1"]
    lines = judgement["comparisons"]["release 1"]
    assert all(line["ours"] == line["theirs"] for line in lines)


def test_scores_that_are_no_numbers_are_named(made, tmp_path):
    with pytest.raises(ReleaseError, match=r"the new release: .* scores are not numbers"):
        judged(made, tmp_path, compressed_of(made, tmp_path, scale=float("nan")))


@pytest.mark.parametrize(
    ("settings", "figure"),
    [
        ({"max_calibration_error": 1e-6}, "calibration error of what is released"),
        ({"max_popularity_lift": 1e-6}, "popularity lift of the lists"),
        ({"min_tail_exposure": 1e6}, "exposure of tail items per like, over that of head items"),
    ],
)
def test_each_bound_can_be_missed(made, tmp_path, settings, figure):
    passed, gate, _ = judged(made, tmp_path, compressed_of(made, tmp_path), **settings)
    missed = [check["figure"] for check in gate["checks"] if not check["passed"]]
    assert not passed and missed == [figure]


def test_rows_are_laid_out_for_a_release_of_another_configuration():
    ours = ModelSpec(
        **{**asdict(OTHER_SPEC), "attribute_cardinalities": {"age": 5, "gender": 3}, "history_length": 4}
    )
    theirs = ModelSpec(
        **{**asdict(OTHER_SPEC), "attribute_cardinalities": {"gender": 3, "city": 9}, "history_length": 2}
    )
    rows = {
        "user_index": np.array([[1], [2]]),
        "user_attributes": np.array([[4, 2], [3, 1]]),
        "history": np.array([[5, 6, 7, 0], [8, 0, 0, 0]]),
        "history_ratings": np.array([[1.0, 2.0, 3.0, 0.0], [4.0, 0.0, 0.0, 0.0]]),
    }
    laid = rows_for(theirs, ours, rows)
    assert laid["user_attributes"].tolist() == [[2, 0], [1, 0]]
    assert laid["history"].tolist() == [[6, 7], [8, 0]]
    assert laid["history_ratings"].tolist() == [[2.0, 3.0], [4.0, 0.0]]
    wider = rows_for(
        ModelSpec(**{**asdict(theirs), "history_length": 6, "attribute_cardinalities": {}}), ours, rows
    )
    assert wider["history"].tolist()[0] == [5, 6, 7, 0, 0, 0]
    assert wider["user_attributes"].tolist() == [[0], [0]]
