"""Faults of the storage while a real Triton answers: nobody notices, and it goes on by itself."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_disk import mounted_disk
from test_triton_releases import FACTORS, hammering
from tiny_release import write_artifacts
from waiting import wait_for

from leanrec.config import ReleaseSettings
from leanrec.errors import ReleaseError
from leanrec.release.promote import rollback
from leanrec.release.publish import publish_release
from leanrec.triton.embedded_server import embedded_server

pytestmark = pytest.mark.integration


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_disk(tmp_path, "1m") as disk:
        yield disk


def test_a_full_disk_and_a_corrupt_version_stop_no_answer(small_disk: Path, tmp_path: Path) -> None:
    repository = small_disk / "models"
    settings = ReleaseSettings(repository=str(repository), keep=5)

    def publish(number: int) -> int:
        artifacts = write_artifacts(Path(tempfile.mkdtemp(dir=tmp_path)), FACTORS[number])
        output = tmp_path / "release.json"
        return publish_release(settings, name="tiny", **artifacts, lineage={}, output=output)["version"]

    publish(1)
    with embedded_server(repository, tmp_path / "server.json") as server, hammering(server, 2) as load:
        wait_for(lambda: len(load.versions) > 20)
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"x" * (os.statvfs(small_disk).f_bavail * 4096 - 8192))
        with pytest.raises(ReleaseError, match=r"No space left.*version 1 goes on serving"):
            publish(2)
        seen = len(load.versions)
        wait_for(lambda: len(load.versions) > seen + 20)
        assert set(load.versions) == {1}
        ballast.unlink()
        assert publish(2) == 2
        wait_for(lambda: load.versions[-1] == 2)

        (repository / "recommender" / "1" / "model.onnx").write_bytes(b"rot")
        with pytest.raises(
            ReleaseError, match=r"version 1 is not as it was published: .*model\.onnx: changed"
        ):
            rollback(repository)
        assert server.loaded()["problem"] is None
        seen = len(load.versions)
        wait_for(lambda: len(load.versions) > seen + 20)
    assert (load.failures, load.mixed) == ([], [])
