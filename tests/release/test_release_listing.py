"""What a person sees of the releases kept, and what differs between two."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_release import SPEC, write_artifacts

from leanrec.config import ReleaseSettings
from leanrec.errors import ReleaseError
from leanrec.files import read_json, write_json
from leanrec.gates import write_gate
from leanrec.release.diff import diff_releases
from leanrec.release.integrity import verify
from leanrec.release.lineage import missing_from
from leanrec.release.listing import list_releases
from leanrec.release.promote import advance, offer, promote, rollback, status, withdraw
from leanrec.release.publish import publish_release
from leanrec.release.repository import ModelRepository
from leanrec.release.retention import prune

LINEAGE = {"run": "r1", "code_version": "c1", "configuration": "d1"}


def publish(folder: Path, number: int, *, factor: float = 1.0, spec=SPEC, **settings: object) -> int:
    """Publish another tiny release into `folder`/models; its settings are `settings`."""
    artifacts = write_artifacts(folder / f"artifacts-{number}", factor, spec)
    front = {"chosen": "int8", "candidates": [{"recipe": "int8", "test": {"auc": 0.7 + number / 100}}]}
    write_json(artifacts["compressed"] / "front.json", front)
    judgement = folder / f"artifacts-{number}" / "judgement"
    write_json(judgement / "judgement.json", {"comparisons": {}})
    write_gate(judgement, "judgement", [])
    figures = publish_release(
        ReleaseSettings(repository=str(folder / "models"), keep=5),
        name="tiny",
        **artifacts,
        judgement=judgement,
        lineage={**LINEAGE, "settings": {"training": {"seed": 1, **settings}}},
        output=folder / "release.json",
    )
    return figures["version"]


def test_the_list_says_each_releases_role_figures_and_origin_and_nothing_is_missing(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        publish(tmp_path, number)
    rollback(tmp_path / "models")
    lines = list_releases(tmp_path / "models")
    assert [(line["version"], line["role"]) for line in lines] == [
        (3, "kept"),
        (2, "stable"),
        (1, "previous"),
    ]
    newest = lines[0]
    assert newest["metrics"] == {"auc": 0.73}
    assert newest["feature_service"] == "user_row"
    assert (newest["run"], newest["code_version"], len(newest["data"])) == ("r1", "c1", 64)
    assert newest["disk_bytes"] > newest["bytes"] > 0
    assert newest["incomplete"] == []


def test_a_candidate_is_listed_by_its_stage_and_outlives_pruning(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        publish(tmp_path, number)
    models = tmp_path / "models"
    promote(models, 2)
    offer(models, 1)
    assert roles(models) == [(3, "previous"), (2, "stable"), (1, "candidate")]
    advance(models, "canary", percent=10, reason="its answers agree")
    assert roles(models) == [(3, "previous"), (2, "stable"), (1, "canary")]
    assert prune(models, keep=1)["removed"] == []
    withdraw(models, "too slow")
    assert prune(models, keep=1)["removed"] == [1]
    assert roles(models) == [(3, "previous"), (2, "stable")]


def roles(models: Path) -> list[tuple[int, str]]:
    return [(line["version"], line["role"]) for line in list_releases(models)]


def test_a_manifest_of_older_code_is_listed_with_what_it_lacks(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    path = ModelRepository(tmp_path / "models").release_folder(1) / "manifest.json"
    manifest = read_json(path)
    del manifest["feature_service"], manifest["lineage"]["data"], manifest["files"]["ranker/model.onnx"]
    write_json(path, manifest)
    lacking = ["feature_service", "lineage.data", "files.ranker/model.onnx"]
    assert missing_from(manifest) == lacking
    assert list_releases(tmp_path / "models")[0]["incomplete"] == lacking


def test_a_diff_shows_figures_items_vocabularies_settings_and_answers(tmp_path: Path) -> None:
    publish(tmp_path, 1, epochs=3)
    publish(tmp_path, 2, epochs=4, factor=2.0, spec=replace(SPEC, num_items=25))
    found = diff_releases(tmp_path / "models", 1, 2)
    assert found["metrics"] == {"auc": [0.71, 0.72]}
    assert found["items"] == {
        "num_added": 4,
        "num_gone": 0,
        "added": ["i21", "i22", "i23", "i24"],
        "gone": [],
    }
    assert found["vocabulary"]["items"] == [20, 24]
    assert found["settings"] == {"training.epochs": [3, 4]}
    assert found["bytes"][0] < found["bytes"][1]


def test_both_graphs_answer_the_golden_requests_for_a_diff(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    publish(tmp_path, 2, factor=2.0)
    publish(tmp_path, 3, spec=replace(SPEC, history_length=9))
    golden = diff_releases(tmp_path / "models", 1, 2)["golden"]
    assert (golden["num_requests"], golden["overlap@10"]) == (3, 1.0)
    before, after = golden["mean_score@10"]
    assert after == pytest.approx(2 * before)
    assert golden["largest_score_ratio"] == pytest.approx(2)
    assert diff_releases(tmp_path / "models", 2, 3)["golden"] is None


def test_prune_keeps_what_is_served_and_what_a_rollback_needs(tmp_path: Path) -> None:
    for number in range(1, 6):
        publish(tmp_path, number)
    for _ in range(3):
        rollback(tmp_path / "models")
    repository = ModelRepository(tmp_path / "models")
    planned = prune(tmp_path / "models", keep=1, dry_run=True)
    assert planned["removed"] == [3, 4]
    assert repository.numbers("ranker") == [1, 2, 3, 4, 5]
    done = prune(tmp_path / "models", keep=1)
    assert (done["removed"], done["kept"], done["bytes"]) == ([3, 4], [1, 2, 5], planned["bytes"])
    assert repository.numbers("ranker") == repository.numbers("recommender") == [1, 2, 5]
    assert (status(tmp_path / "models")["stable"], repository.is_settled()) == (2, True)
    assert prune(tmp_path / "models", keep=1)["removed"] == []
    with pytest.raises(ReleaseError, match="keep at least 1"):
        prune(tmp_path / "models", keep=0)


def test_a_dry_run_of_prune_leaves_what_a_killed_publisher_left(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    models = tmp_path / "models"
    shutil.copytree(models / "recommender" / "1", models / "recommender" / "2")
    (models / ".staging").mkdir()
    before = sorted(models.rglob("*"))
    assert prune(models, keep=1, dry_run=True)["removed"] == []
    assert sorted(models.rglob("*")) == before
    prune(models, keep=1)
    assert ModelRepository(models).numbers("recommender") == [1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{rot", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "does not name"),
        (b'{"name": "tiny"}', "does not name"),
        (b'{"files": {"ranker/model.onnx": {}}}', "does not name"),
        (None, "missing"),
    ],
)
def test_a_version_with_a_damaged_manifest_is_shown_as_such_and_refused_by_name(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    models = tmp_path / "models"
    for number in (1, 2):
        publish(tmp_path, number)
    manifest = ModelRepository(models).release_folder(1) / "manifest.json"
    manifest.unlink() if content is None else manifest.write_bytes(content)
    for lines in (list_releases(models)[::-1], status(models)["versions"]):
        assert said in lines[0]["damaged"]
        assert [line["role"] for line in lines] == ["served", "stable"]
        assert lines[1]["damaged"] is None
    for command in (lambda: verify(models, 1), lambda: diff_releases(models, 1, 2)):
        with pytest.raises(ReleaseError, match=f"manifest.json: .*{said}.*version 1 is damaged"):
            command()
