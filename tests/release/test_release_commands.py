"""`leanrec release`: what its commands print for a person and for a program, and how they end."""

import json
from pathlib import Path

import pytest
import yaml
from tiny_release import write_artifacts
from typer.testing import CliRunner, Result

from leanrec.cli import app
from leanrec.config import ReleaseSettings
from leanrec.errors import ReleaseError
from leanrec.release.promote import offer
from leanrec.release.publish import publish_release
from leanrec.release.repository import ModelRepository


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Versions 1 to 4, all kept; 4 is stable and 3 is served beside it."""
    settings = ReleaseSettings(repository=str(tmp_path / "models"), keep=9)
    artifacts = write_artifacts(tmp_path / "artifacts")
    for _ in range(4):
        publish_release(settings, name="tiny", lineage={}, output=tmp_path / "out", **artifacts)
    return tmp_path / "models"


def release(models: Path, command: str, *others: str) -> Result:
    """`leanrec release <command> CONFIG <others>` for the repository at `models`."""
    config = models.parent / "mine.yaml"
    settings = {
        "name": "tiny",
        "data": {"source": "movielens-100k"},
        "feature_store": {"repository": "features"},
        "release": {"repository": str(models), "keep": 2},
    }
    config.write_text(yaml.safe_dump(settings))
    return CliRunner().invoke(app, ["release", command, str(config), *others])


def told(models: Path, command: str, *others: str) -> str:
    """What the command tells a person, in one line."""
    done = release(models, command, *others)
    assert done.exit_code == 0, done.exception
    return " ".join(done.output.split())


def printed(models: Path, command: str, *others: str) -> dict | list:
    """The one line of JSON that the command prints."""
    done = release(models, command, *others, "--json")
    assert done.exit_code == 0, done.exception
    (line,) = done.output.splitlines()
    return json.loads(line)


def test_releases_are_listed_and_two_are_compared(models: Path) -> None:
    assert "version 4 is stable" in told(models, "status")
    assert "stable" in told(models, "list")
    listed = printed(models, "list")
    assert [(line["version"], line["role"]) for line in listed] == [
        (4, "stable"),
        (3, "served"),
        (2, "kept"),
        (1, "kept"),
    ]
    assert "Items: 0 added, 0 gone." in told(models, "diff", "1", "4")
    found = printed(models, "diff", "1", "4")
    assert (found["items"]["num_added"], found["golden"]["overlap@10"]) == (0, 1)


def test_a_changed_file_ends_verify_with_its_name(models: Path) -> None:
    assert told(models, "verify", "2") == "ok: version 2 is as it was published"
    assert printed(models, "verify", "2") == {"version": 2, "ok": True, "faults": []}
    graph = models / "recommender" / "2" / "model.onnx"
    graph.write_bytes(b"rot")
    for done in (release(models, "verify", "2"), release(models, "verify", "2", "--json")):
        assert f"{graph}: changed since it was published" in done.output
        assert isinstance(done.exception, ReleaseError)
        assert done.exception.exit_status == 2


def test_prune_says_what_goes_and_then_it_goes(models: Path) -> None:
    repository = ModelRepository(models)
    assert "Releases would be removed: 1, 2" in told(models, "prune", "--dry-run")
    assert repository.numbers("ranker") == [1, 2, 3, 4]
    assert "Releases removed: 1 " in told(models, "prune", "--keep", "3")
    assert printed(models, "prune")["removed"] == [2]
    assert repository.numbers("ranker") == [3, 4]


def test_the_history_says_why_and_by_hand_one_may_say_it_oneself(models: Path) -> None:
    release(models, "promote", "1")
    assert "Last change: promote 4 → 1, " in told(models, "status")
    release(models, "promote", "4", "--reason", "1 names too few films")
    release(models, "rollback", "--reason", "4 is [no] better")
    offer(models, 4)
    release(models, "abort", "--reason", "tried by mistake")
    assert "withdraw 4 → 1" in told(models, "status")
    assert "tried by mistake." in told(models, "status")
    assert [line["reason"] for line in printed(models, "status")["history"]] == [
        "published, stable at once: the first",
        *["published, stable at once (release.strategy: direct)"] * 3,
        "promoted by hand",
        "1 names too few films",
        "4 is [no] better",
        "offered as a candidate",
        "tried by mistake",
    ]


@pytest.mark.parametrize("command", [("promote", "1"), ("rollback",), ("abort",)], ids=lambda c: c[0])
def test_a_reason_that_no_line_can_show_changes_nothing(models: Path, command: tuple[str, ...]) -> None:
    offer(models, 2)
    before = (models / "release.json").read_bytes()
    done = release(models, *command, "--reason", "two\nlines")
    assert isinstance(done.exception, ReleaseError)
    assert str(done.exception).startswith("the reason has 9 characters, of which 1 cannot be printed")
    assert (models / "release.json").read_bytes() == before
