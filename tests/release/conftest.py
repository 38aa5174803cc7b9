"""What is published, and where."""

from __future__ import annotations

from pathlib import Path

import pytest
from publishing import Artifacts
from tiny_release import write_artifacts

from leanrec.config import ReleaseSettings


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    return write_artifacts(tmp_path_factory.mktemp("artifacts"))


@pytest.fixture
def settings(tmp_path: Path) -> ReleaseSettings:
    return ReleaseSettings(repository=str(tmp_path / "models"), keep=2)
