"""Publishing is whole or not at all: killed, beside others, on a full disk, with files that cannot go."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from publishing import Artifacts, content, publish
from small_disk import mounted_disk
from tiny_release import SPEC, write_artifacts

from leanrec.config import ReleaseSettings
from leanrec.errors import HostError, ReleaseError
from leanrec.release.integrity import verify
from leanrec.release.promote import promote, rollback, status
from leanrec.release.repository import ModelRepository


@contextmanager
def immutable(file: Path) -> Iterator[None]:
    """Nobody, not even root, can remove `file` meanwhile; skips where the file system knows no such thing."""
    if shutil.which("chattr") is None or subprocess.run(["chattr", "+i", file], check=False).returncode:
        pytest.skip("a file that cannot be removed takes root, and a file system that knows chattr")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", file], check=True)


def removed_later(path: Path) -> list[str]:
    return sorted(folder.name.rpartition("-")[0] for folder in path.glob("recommender/.removed-*"))


def test_an_old_version_that_cannot_be_removed_stops_no_command(
    settings: ReleaseSettings, artifacts: Artifacts, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(settings.repository)
    publish(settings, artifacts)
    publish(settings, artifacts)
    old = path / "recommender" / "1" / "model.onnx"
    same = path.parent / "same"
    os.link(old, same)  # the name by which the file is found again
    with immutable(same):
        assert publish(settings, artifacts)["version"] == 3
        assert "cannot be removed" in caplog.text
        assert rollback(path) == 2
        facts = status(path)
        assert (facts["stable"], facts["settled"], removed_later(path)) == (2, True, [".removed-1"])
    assert promote(path, 3) == 3
    assert removed_later(path) == []


def test_a_folder_that_cannot_even_be_renamed_stops_no_command(
    settings: ReleaseSettings, artifacts: Artifacts, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(settings.repository)
    publish(settings, artifacts)
    publish(settings, artifacts)
    with immutable(path / "recommender" / "1"):
        assert publish(settings, artifacts)["version"] == 3
        assert "cannot be removed" in caplog.text
        assert rollback(path) == 2
        assert ModelRepository(path).numbers("recommender") == [1, 2, 3]
    assert promote(path, 3) == 3
    assert ModelRepository(path).numbers("recommender") == [2, 3]


def test_a_version_that_is_decided_and_not_yet_in_place_is_called_published(
    settings: ReleaseSettings, artifacts: Artifacts
) -> None:
    path = Path(settings.repository)
    publish(settings, artifacts)
    with immutable(path / "ranker" / "config.pbtxt"):
        with pytest.raises(ReleaseError, match="version 2 is published, but not all of it"):
            publish(settings, artifacts)
        assert (status(path)["stable"], status(path)["settled"]) == (2, False)
    assert rollback(path) == 1
    assert status(path)["settled"]


PUBLISHER = """
import os, signal, sys
from pathlib import Path
from leanrec.config import ReleaseSettings
from leanrec.release import publish, repository

def stop_while_staging():
    real = publish.fsync_tree
    def fsync_tree(folder):
        how()
        real(folder)
    publish.fsync_tree = fsync_tree

def stop_at(step):
    real, seen = repository.rename, 0
    def rename(source, target):
        nonlocal seen
        if seen == step:
            how()
        seen += 1
        real(source, target)
    repository.rename = rename

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def hold():
    print("holding", flush=True)
    sys.stdin.read()

folder, step, how = Path(sys.argv[1]), int(sys.argv[2]), {"die": die, "hold": hold}[sys.argv[3]]
stop_while_staging() if step == -1 else stop_at(step)
artifacts = {name: Path(sys.argv[4]) / name for name in ("compressed", "features", "evaluation", "parity")}
settings = ReleaseSettings(repository=str(folder), keep=2)
publish.publish_release(settings, name="tiny", lineage={}, output=folder / "../out", **artifacts)
"""
STAGING = -1
"""The step of a publisher that has copied everything and put nothing in place."""


def publisher(settings: ReleaseSettings, artifacts: Artifacts, step: int, how: str) -> subprocess.Popen[str]:
    folder = artifacts["parity"].parent
    return subprocess.Popen(
        [sys.executable, "-c", PUBLISHER, settings.repository, str(step), how, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.integration
@pytest.mark.parametrize("step", range(STAGING, 5))
@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
def test_a_publisher_killed_before_any_rename_leaves_what_the_next_one_settles(
    settings: ReleaseSettings, artifacts: Artifacts, step: int, first: bool
) -> None:
    path = Path(settings.repository)
    if not first:
        publish(settings, artifacts)
    old = 0 if first else 1
    assert publisher(settings, artifacts, step, "die").wait(60) == -signal.SIGKILL
    repository = ModelRepository(path)
    decided = old + 1 if step >= 3 else old
    state = repository.state()
    assert (state.stable if state else 0) == decided
    with repository.exclusive():
        pass
    assert repository.is_settled()
    assert repository.numbers("recommender") == repository.numbers("ranker") == list(range(1, decided + 1))
    assert all(verify(path, version) == [] for version in range(1, decided + 1))
    assert publish(settings, artifacts)["version"] == decided + 1
    assert not list(path.glob(".staging*"))


@pytest.mark.integration
def test_while_a_publisher_copies_others_publish_and_roll_back_and_it_ends_well(
    settings: ReleaseSettings, artifacts: Artifacts
) -> None:
    path = Path(settings.repository)
    publish(settings, artifacts)
    publish(settings, artifacts)
    with publisher(settings, artifacts, STAGING, "hold") as slow:
        assert slow.stdout and slow.stdout.readline() == "holding\n"
        began = time.monotonic()
        assert rollback(path) == 1
        assert time.monotonic() - began < 1
        assert publish(settings, artifacts)["version"] == 3
        assert len(list(path.glob(".staging*"))) == 1, "what another publisher puts together is not touched"
        slow.communicate("")
    assert slow.returncode == 0
    facts = status(path)
    assert (facts["stable"], facts["previous"], facts["served"], facts["settled"]) == (4, 3, [3, 4], True)
    assert [(line["from"], line["to"]) for line in facts["history"][-3:]] == [(2, 1), (1, 3), (3, 4)]
    assert all(verify(path, version) == [] for version in (3, 4))
    assert not list(path.glob(".staging*"))


@pytest.mark.integration
def test_of_two_publishers_the_later_is_held_against_the_vocabulary_of_the_earlier(
    settings: ReleaseSettings, artifacts: Artifacts, tmp_path: Path
) -> None:
    publish(settings, artifacts)
    with publisher(settings, artifacts, STAGING, "hold") as slow:
        assert slow.stdout and slow.stdout.readline() == "holding\n"
        publish(settings, write_artifacts(tmp_path / "more", spec=replace(SPEC, num_items=25)))
        before = content(Path(settings.repository))
        slow.communicate("")
    assert slow.returncode != 0
    assert content(Path(settings.repository)) == before


@pytest.mark.integration
def test_a_writer_that_holds_the_repository_for_too_long_is_named(
    settings: ReleaseSettings, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leanrec.release.repository.PATIENCE_S", 0.1)
    with publisher(settings, artifacts, 2, "hold") as other:
        assert other.stdout and other.stdout.readline() == "holding\n"
        with pytest.raises(ReleaseError, match=f"process {other.pid} is changing this repository"):
            publish(settings, artifacts)
        other.communicate("")
    assert status(Path(settings.repository))["stable"] == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_disk(tmp_path, "256k") as disk:
        yield disk


@pytest.mark.integration
def test_a_full_disk_leaves_the_last_release_untouched(
    small_disk: Path, artifacts: Artifacts, tmp_path: Path
) -> None:
    settings = ReleaseSettings(repository=str(small_disk / "models"), keep=2)
    publish(settings, artifacts, tmp_path / "out")
    before = content(small_disk / "models")
    (small_disk / "ballast").write_bytes(b"x" * (os.statvfs(small_disk).f_bavail * 4096 - 8192))
    with pytest.raises(ReleaseError, match=r"No space left.*version 1 goes on serving"):
        publish(settings, artifacts, tmp_path / "out")
    assert content(small_disk / "models") == before
    (small_disk / "ballast").unlink()
    assert publish(settings, artifacts, tmp_path / "out")["version"] == 2
    assert json.loads((tmp_path / "out").read_text())["version"] == 2


@pytest.mark.integration
def test_a_rollback_with_little_room_is_done_whole_or_not_at_all(
    small_disk: Path, artifacts: Artifacts, tmp_path: Path
) -> None:
    path = small_disk / "models"
    for _ in range(2):
        publish(ReleaseSettings(repository=str(path), keep=2), artifacts, tmp_path / "out")
    page, stable = 4096, [2]
    for free in range(8):
        with (small_disk / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
            ballast.write(b"x" * (os.statvfs(small_disk).f_bavail - free) * page)
        assert os.statvfs(small_disk).f_bavail == free
        before = content(path)
        try:
            assert rollback(path) == 1
        except HostError:
            assert content(path) == before
        facts = status(path)
        stable.append(facts["stable"])
        assert facts["settled"]
        (small_disk / "ballast").unlink()
        if facts["stable"] == 1:
            break
    assert stable[-2:] == [2, 1]
