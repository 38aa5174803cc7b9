"""Publish what `tiny_release` makes, and look at what came of it."""

from __future__ import annotations

from pathlib import Path

from leanrec.config import ReleaseSettings
from leanrec.release.publish import publish_release

Artifacts = dict[str, Path]


def publish(settings: ReleaseSettings, artifacts: Artifacts, output: Path | None = None) -> dict:
    output = output or Path(settings.repository).parent / "release"
    return publish_release(settings, name="tiny", **artifacts, lineage={"run": "r1"}, output=output)


def content(folder: Path) -> dict[str, bytes]:
    """Every visible file below `folder`."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
