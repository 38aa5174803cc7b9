"""Is a version what was published? Every file is held against the SHA-256 in its manifest."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from leanrec.errors import ReleaseError
from leanrec.files import sha256_of
from leanrec.release.repository import MANIFEST, ModelRepository, path_of_file
from leanrec.schema import MODELS


def verify(repository: Path, version: int) -> list[str]:
    """What differs from the manifest of `version`, one sentence a file; empty when all is as published."""
    store = ModelRepository(Path(repository).absolute())
    files: dict[str, dict[str, Any]] = store.manifest(version)["files"]
    paths = [store.path / path_of_file(name, version) for name in files]
    with ThreadPoolExecutor() as pool:  # a rollback waits for it, and one core reads one file at a time
        found = list(pool.map(lambda path: sha256_of(path) if path.is_file() else None, paths))
    faults = []
    for path, digest, facts in zip(paths, found, files.values(), strict=True):
        if digest is None:
            faults.append(f"{path}: missing")
        elif digest != facts["sha256"]:
            faults.append(f"{path}: changed since it was published")
    for model in MODELS:
        folder = store.version_folder(model, version)
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            name = f"{model}/{path.relative_to(folder).as_posix()}"
            if name not in files and path.name != MANIFEST:
                faults.append(f"{path}: not part of the release")
    return faults


def require_whole(store: ModelRepository, version: int) -> None:
    """A ReleaseError unless every file of `version` is what was published."""
    faults = verify(store.path, version)
    if faults:
        more = f", and {len(faults) - 1} more files" if len(faults) > 1 else ""
        raise ReleaseError(
            f"version {version} is not as it was published: {faults[0]}{more}; choose another "
            "version, or publish it anew"
        )
