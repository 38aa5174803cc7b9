"""Publishing into a directory: what a release holds, and what is refused."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from publishing import Artifacts, content, publish
from tiny_release import SPEC, write_artifacts

from leanrec.config import ReleaseSettings
from leanrec.errors import ReleaseError
from leanrec.files import read_json, write_json
from leanrec.gates import at_most, write_gate
from leanrec.release.integrity import verify
from leanrec.release.lineage import data_digest
from leanrec.release.promote import promote, rollback, status
from leanrec.release.publish import publish_release
from leanrec.release.repository import ModelRepository
from leanrec.release.retention import prune
from leanrec.schema import MODELS


def test_a_release_says_what_it_is_and_matches_its_manifest(
    settings: ReleaseSettings, artifacts: Artifacts, tmp_path: Path
) -> None:
    figures = publish(settings, artifacts, tmp_path / "release.json")
    assert read_json(tmp_path / "release.json") == figures
    assert set(figures) == {"name", "version", "previous", "repository", "published_at", "bytes", "recipe"}
    assert (figures["version"], figures["previous"], figures["recipe"]) == (1, None, "int8")
    repository = ModelRepository(Path(settings.repository))
    assert figures["bytes"] == sum(
        (repository.version_folder(m, 1) / "model.onnx").stat().st_size for m in MODELS
    )
    assert repository.manifest(1)["steps"] == read_json(artifacts["compressed"] / "front.json")["steps"]
    lineage = repository.manifest(1)["lineage"]
    assert lineage == {"run": "r1", "data": data_digest(artifacts["features"])}
    names = {path.name for path in repository.release_folder(1).iterdir()}
    assert names >= {"manifest.json", "items.parquet", "vocabulary", "golden.safetensors", "golden.json"}
    assert names >= {"spec.json", "front.json", "evaluation.json", "parity.json"}
    assert verify(repository.path, 1) == []


def test_a_changed_a_missing_and_a_foreign_file_are_each_named(
    settings: ReleaseSettings, artifacts: Artifacts
) -> None:
    publish(settings, artifacts)
    repository = ModelRepository(Path(settings.repository))
    with (repository.version_folder("ranker", 1) / "model.onnx").open("ab") as graph:
        graph.write(b"x")
    (repository.release_folder(1) / "front.json").unlink()
    (repository.release_folder(1) / "notes.txt").write_text("x")
    faults = "\n".join(verify(repository.path, 1))
    assert "ranker/1/model.onnx: changed" in faults
    assert "front.json: missing" in faults
    assert "notes.txt: not part" in faults


def test_old_releases_are_pruned_and_no_number_is_used_twice(
    settings: ReleaseSettings, artifacts: Artifacts
) -> None:
    for _ in range(3):
        publish(settings, artifacts)
    assert rollback(Path(settings.repository)) == 2
    assert publish(settings, artifacts)["version"] == 4
    repository = ModelRepository(Path(settings.repository))
    assert repository.numbers("recommender") == repository.numbers("ranker") == [2, 3, 4]
    report = status(Path(settings.repository))
    assert (report["stable"], report["served"], report["settled"]) == (4, [2, 4], True)
    assert [c.versions for m in MODELS if (c := repository.configuration(m))] == [(2, 4), (2, 4)]


def test_promote_and_rollback_move_both_models_together(
    settings: ReleaseSettings, artifacts: Artifacts
) -> None:
    publish(settings, artifacts)
    publish(settings, artifacts)
    path = Path(settings.repository)
    assert rollback(path) == 1
    assert promote(path, 2) == 2
    repository = ModelRepository(path)
    assert [c.versions for m in MODELS if (c := repository.configuration(m))] == [(1, 2), (1, 2)]


def test_settings_that_a_person_tuned_outlive_the_next_release(
    settings: ReleaseSettings, artifacts: Artifacts
) -> None:
    publish(settings, artifacts)
    file = Path(settings.repository) / "recommender" / "config.pbtxt"
    configuration = ModelRepository(Path(settings.repository)).configuration("recommender")
    assert configuration
    file.write_text(
        replace(configuration, instance_count=3, parameters={"intra_op_thread_count": "2"}).to_pbtxt()
    )
    publish(settings, artifacts)
    after = ModelRepository(Path(settings.repository)).configuration("recommender")
    assert after and (after.instance_count, after.parameters, after.versions) == (
        3,
        {"intra_op_thread_count": "2"},
        (1, 2),
    )


def test_requests_are_merged_only_if_every_version_served_allows_it(
    settings: ReleaseSettings, artifacts: Artifacts, tmp_path: Path
) -> None:
    alone = write_artifacts(tmp_path / "alone")
    write_json(alone["compressed"] / "front.json", {"chosen": "int8", "merge_requests": False})

    def merged() -> list[bool]:
        repository = ModelRepository(Path(settings.repository))
        return [c.dynamic_batching is not None for m in MODELS if (c := repository.configuration(m))]

    found = []
    for release in (artifacts, alone, artifacts, artifacts):
        publish(settings, release)
        found.append(merged())
    assert found == [[True, True], [False, False], [False, False], [True, True]]


def test_a_release_that_missed_a_gate_is_not_published(
    settings: ReleaseSettings, artifacts: Artifacts, tmp_path: Path
) -> None:
    for gate in ("compression", "parity"):
        bad = write_artifacts(tmp_path / gate)
        folder = bad["compressed" if gate == "compression" else "parity"]
        write_gate(folder, gate, [at_most("difference", 1.0, 0.5)])
        with pytest.raises(ReleaseError, match=f"the {gate} gate did not pass"):
            publish(settings, bad)
    assert not list(Path(settings.repository).glob("*/1"))


def test_a_release_with_other_tensors_is_served_alone(
    settings: ReleaseSettings, artifacts: Artifacts, tmp_path: Path
) -> None:
    publish(settings, artifacts)
    publish(settings, write_artifacts(tmp_path / "longer", spec=replace(SPEC, history_length=8)))
    assert status(Path(settings.repository))["served"] == [2]


def test_a_release_with_other_attributes_is_served_alone_though_their_number_is_the_same(
    settings: ReleaseSettings, artifacts: Artifacts, tmp_path: Path
) -> None:
    publish(settings, artifacts)
    other = replace(SPEC, attribute_cardinalities={"city": 3, "occupation": 4})
    publish(settings, write_artifacts(tmp_path / "other", spec=other))
    assert status(Path(settings.repository))["served"] == [2]


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("compressed/chosen/ranker/model.onnx", "ranker/model.onnx: missing"),
        ("features/vocabulary", "could not be written"),
        ("evaluation/evaluation.json", "could not be written"),
    ],
)
def test_an_incomplete_artifact_leaves_the_releases_as_they_were(
    settings: ReleaseSettings, artifacts: Artifacts, tmp_path: Path, missing: str, said: str
) -> None:
    publish(settings, artifacts)
    before = content(Path(settings.repository))
    broken = write_artifacts(tmp_path / "broken")
    target = tmp_path / "broken" / missing
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(ReleaseError, match=said):
        publish(settings, broken)
    assert content(Path(settings.repository)) == before


def test_a_vocabulary_that_does_not_go_on_from_the_newest_is_refused(
    settings: ReleaseSettings, artifacts: Artifacts, tmp_path: Path
) -> None:
    publish(settings, artifacts)
    publish(settings, write_artifacts(tmp_path / "more", spec=replace(SPEC, num_items=25)))
    before = content(Path(settings.repository))
    with pytest.raises(
        ReleaseError, match="the items vocabulary of the new version does not go on from version 2's"
    ):
        publish(settings, artifacts)
    assert content(Path(settings.repository)) == before


def test_graphs_without_parity_are_not_published(
    settings: ReleaseSettings, artifacts: Artifacts, tmp_path: Path
) -> None:
    failed = write_artifacts(tmp_path / "failed")
    write_json(failed["parity"] / "gate.json", {"gate": "parity", "passed": False, "checks": []})
    with pytest.raises(ReleaseError, match="parity gate did not pass"):
        publish(settings, failed)
    assert not Path(settings.repository).exists()


def test_a_version_that_is_not_there_is_an_error_that_lists_what_is(
    settings: ReleaseSettings, artifacts: Artifacts
) -> None:
    with pytest.raises(ReleaseError, match="it holds no release"):
        status(Path(settings.repository))
    publish(settings, artifacts)
    with pytest.raises(ReleaseError, match="version 7 is not there; versions kept: 1"):
        verify(Path(settings.repository), 7)


def test_versions_of_somebody_else_are_never_touched(settings: ReleaseSettings, artifacts: Artifacts) -> None:
    foreign = Path(settings.repository) / "recommender" / "1" / "model.onnx"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"theirs")
    with pytest.raises(ReleaseError, match="LeanRec did not publish"):
        publish(settings, artifacts)
    assert foreign.read_bytes() == b"theirs"


def test_a_lost_release_json_is_an_error_that_touches_no_release(
    settings: ReleaseSettings, artifacts: Artifacts
) -> None:
    path = Path(settings.repository)
    publish(settings, artifacts)
    publish(settings, artifacts)
    kept = (path / "release.json").read_bytes()
    (path / "release.json").unlink()
    before = content(path)
    commands: list[Callable[[], object]] = [
        lambda: publish(settings, artifacts),
        lambda: rollback(path),
        lambda: status(path),
        lambda: prune(path, keep=1),
    ]
    for command in commands:
        with pytest.raises(ReleaseError, match=r"version 1, 2 and no release\.json.*put the file back"):
            command()
    assert content(path) == before
    (path / "release.json").write_bytes(kept)
    assert publish(settings, artifacts)["version"] == 3


def test_a_folder_of_somebody_else_among_the_releases_stays(
    settings: ReleaseSettings, artifacts: Artifacts
) -> None:
    path = Path(settings.repository)
    publish(settings, artifacts)
    foreign = path / "recommender" / "2" / "model.onnx"
    foreign.parent.mkdir()
    foreign.write_bytes(b"theirs")
    prune(path, keep=1, dry_run=True)
    assert publish(settings, artifacts)["version"] == 3
    prune(path, keep=1)
    assert foreign.read_bytes() == b"theirs"
    assert ModelRepository(path).is_settled()


def test_what_a_person_adds_to_a_configuration_outlives_releases(
    settings: ReleaseSettings, artifacts: Artifacts
) -> None:
    path = Path(settings.repository)
    publish(settings, artifacts)
    with (path / "ranker" / "config.pbtxt").open("a") as file:
        file.write("instance_group { kind: KIND_CPU count: 3 } optimization { priority: PRIORITY_MAX }")
    publish(settings, artifacts)
    assert rollback(path) == 1
    text = (path / "ranker" / "config.pbtxt").read_text()
    assert ("PRIORITY_MAX" in text, text.count("instance_group"), "count: 3" in text) == (True, 2, True)


@pytest.mark.parametrize("text", [b"instance_group [ {", b"\xff"])
def test_a_configuration_that_cannot_be_read_blocks_no_command(
    settings: ReleaseSettings, artifacts: Artifacts, caplog: pytest.LogCaptureFixture, text: bytes
) -> None:
    path = Path(settings.repository)
    publish(settings, artifacts)
    publish(settings, artifacts)
    good = content(path)
    (path / "recommender" / "config.pbtxt").write_bytes(text)
    assert not status(path)["settled"]
    assert rollback(path) == 1
    assert "recommender/config.pbtxt" in caplog.text and "written anew" in caplog.text
    assert status(path)["settled"]
    assert promote(path, 2) == 2
    assert content(path)["recommender/config.pbtxt"] == good["recommender/config.pbtxt"]


def test_a_command_that_changes_nothing_writes_no_configuration(
    settings: ReleaseSettings, artifacts: Artifacts
) -> None:
    path = Path(settings.repository)
    publish(settings, artifacts)
    files = [path / model / "config.pbtxt" for model in MODELS]
    before = [file.stat().st_ino for file in files]
    assert prune(path, keep=1)["removed"] == []
    assert [file.stat().st_ino for file in files] == before


def test_the_history_names_the_run_that_published(settings: ReleaseSettings, artifacts: Artifacts) -> None:
    lineage = {
        "lineage": {"run": "runs/tiny-1"},
        "name": "tiny",
        "output": Path(settings.repository) / "../out",
    }
    publish_release(settings, **artifacts, **lineage)
    publish(settings, artifacts)
    publish(settings.model_copy(update={"strategy": "canary"}), artifacts)
    assert [line["reason"] for line in status(Path(settings.repository))["history"]] == [
        "published by run tiny-1, stable at once: the first",
        "published by run r1, stable at once (release.strategy: direct)",
        "published by run r1, a candidate (release.strategy: canary)",
    ]
