"""A candidate comes whole and goes whole, whatever kills the writer."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_release import write_artifacts

from leanrec.config import ReleaseSettings
from leanrec.errors import ReleaseError
from leanrec.release.integrity import verify
from leanrec.release.promote import accept, advance, offer, promote, rollback, status, withdraw
from leanrec.release.publish import publish_release
from leanrec.release.repository import ModelRepository

Artifacts = dict[str, Path]
CANDIDATE = ("recommender_candidate", "ranker_candidate")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    return write_artifacts(tmp_path_factory.mktemp("artifacts"))


@pytest.fixture
def models(tmp_path: Path, artifacts: Artifacts) -> Path:
    """A repository whose version 1 is stable."""
    publish(tmp_path / "models", artifacts, "direct")
    return tmp_path / "models"


def publish(models: Path, artifacts: Artifacts, strategy: str = "canary") -> dict:
    settings = ReleaseSettings(repository=str(models), keep=2, strategy=strategy)
    return publish_release(settings, name="tiny", lineage={}, output=models.parent / "out", **artifacts)


def candidate_versions(models: Path) -> list[str]:
    """What lies in the candidate's folders, the same for both models."""
    found = [sorted(p.name for p in (models / name).glob("[0-9]*")) for name in CANDIDATE]
    assert found[0] == found[1]
    return found[0]


def test_a_candidate_is_served_under_names_of_its_own(models: Path, artifacts: Artifacts) -> None:
    assert publish(models, artifacts)["version"] == 2
    repository = ModelRepository(models)
    state = repository.required_state()
    assert (state.stable, state.served, state.versions) == (1, (1,), (1, 2))
    assert state.rollout is not None and (state.rollout.version, state.rollout.stage) == (2, "candidate")
    stable, candidate = (repository.configuration(name) for name in ("recommender", CANDIDATE[0]))
    assert stable is not None and candidate is not None
    assert (stable.versions, candidate.versions, candidate.name) == ((1,), (2,), CANDIDATE[0])
    graph, link = (models / name / "2" / "model.onnx" for name in ("recommender", CANDIDATE[0]))
    assert graph.samefile(link)
    assert repository.is_settled()
    assert verify(models, 2) == []


def test_the_first_release_has_nothing_to_be_a_candidate_against(
    tmp_path: Path, artifacts: Artifacts
) -> None:
    publish(tmp_path / "models", artifacts)
    assert status(tmp_path / "models")["stable"] == 1


def test_a_candidate_becomes_stable_beside_the_one_before(models: Path, artifacts: Artifacts) -> None:
    publish(models, artifacts)
    advance(models, "canary", percent=10, reason="its answers agree")
    assert status(models)["rollout"]["percent"] == 10
    assert accept(models, "every bound was kept") == 2
    facts = status(models)
    assert (facts["stable"], facts["served"], facts["rollout"]) == (2, [1, 2], None)
    assert candidate_versions(models) == []
    last = facts["history"][-1]
    assert (last["action"], last["from"], last["to"], last["reason"]) == (
        "promote",
        1,
        2,
        "every bound was kept",
    )


@pytest.mark.parametrize("end", [lambda m: withdraw(m, "too slow"), rollback], ids=["withdraw", "rollback"])
def test_a_candidate_that_goes_leaves_the_stable_version_alone(
    models: Path, artifacts: Artifacts, end: object
) -> None:
    publish(models, artifacts)
    assert end(models) == 1
    facts = status(models)
    assert (facts["stable"], facts["served"], facts["rollout"]) == (1, [1], None)
    assert [line["version"] for line in facts["versions"]] == [1, 2]
    assert candidate_versions(models) == []
    assert facts["settled"]
    offer(models, 2)
    assert candidate_versions(models) == ["2"]


def test_nothing_else_moves_during_a_rollout(models: Path, artifacts: Artifacts) -> None:
    publish(models, artifacts)
    for forbidden in (
        lambda: publish(models, artifacts),
        lambda: publish(models, artifacts, "direct"),
        lambda: offer(models, 2),
    ):
        with pytest.raises(ReleaseError, match=r"version 2 is being rolled out \(candidate\).*release abort"):
            forbidden()
    assert promote(models, 2) == 2
    with pytest.raises(ReleaseError, match="no version is being rolled out"):
        withdraw(models, "late")


KILLED = """
import os, signal, sys
from pathlib import Path
from leanrec.config import ReleaseSettings
from leanrec.release import promote, repository
from leanrec.release.publish import publish_release

models, artifacts, what, step = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
real, seen = repository.rename, 0
def rename(source, target):
    global seen
    if seen == step:
        os.kill(os.getpid(), signal.SIGKILL)
    seen += 1
    real(source, target)
repository.rename = rename
if what == "publish":
    settings = ReleaseSettings(repository=str(models), keep=2, strategy="canary")
    inputs = {name: artifacts / name for name in ("compressed", "features", "evaluation", "parity")}
    publish_release(settings, name="tiny", lineage={}, output=models / "../out", **inputs)
elif what == "accept":
    promote.accept(models, "fine")
else:
    promote.withdraw(models, "bad")
"""

MOVES = [
    *(("publish", step, 3) for step in range(7)),
    *(("accept", step, 1) for step in range(3)),
    *(("withdraw", step, 1) for step in range(3)),
]


@pytest.mark.integration
@pytest.mark.parametrize(("what", "step", "decided_at"), MOVES)
def test_what_a_killed_writer_left_is_finished_or_undone(
    models: Path, artifacts: Artifacts, what: str, step: int, decided_at: int
) -> None:
    if what != "publish":
        publish(models, artifacts)
    folder = artifacts["parity"].parent
    killed = [sys.executable, "-c", KILLED, str(models), str(folder), what, str(step)]
    assert subprocess.run(killed, check=False).returncode == -signal.SIGKILL
    repository = ModelRepository(models)
    with repository.exclusive():
        pass
    state = repository.required_state()
    decided = step >= decided_at
    assert repository.is_settled()
    assert not list(models.glob(".staging*"))
    assert (state.rollout is not None) == (decided if what == "publish" else not decided)
    assert candidate_versions(models) == (["2"] if state.rollout else [])
    assert state.stable == (2 if what == "accept" and decided else 1)
    assert all(verify(models, version) == [] for version in state.versions)


def test_where_files_cannot_be_linked_they_are_copied(
    models: Path, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "link", refuse)
    publish(models, artifacts)
    graph, copy = (models / name / "2" / "model.onnx" for name in ("ranker", CANDIDATE[1]))
    assert graph.read_bytes() == copy.read_bytes() and not graph.samefile(copy)
