"""The releases of a model repository, each in a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from leanrec.errors import ReleaseError
from leanrec.files import size_in_bytes
from leanrec.release.lineage import missing_from
from leanrec.release.repository import ModelRepository
from leanrec.release.state import ReleaseState
from leanrec.schema import MODELS


def list_releases(repository: Path) -> list[dict[str, Any]]:
    """The versions kept, newest first, each with its role, figures, where it comes from and what it lacks.

    `disk_bytes` is what the version takes on the disk, everything included; `incomplete` names what the
    manifest should say and does not, which older code may have left out; `damaged` says why a manifest cannot
    be read, and is None where it can.
    """
    store = ModelRepository(Path(repository).absolute())
    state = store.required_state()
    return [_line(store, state, version) for version in reversed(state.versions)]


def role_of(state: ReleaseState, version: int) -> str:
    """What `version` is for: stable, the stage of its rollout, served, previous, or kept."""
    if version == state.stable:
        return "stable"
    if state.rollout and state.rollout.version == version:
        return state.rollout.stage
    if version in state.served:
        return "served"
    return "previous" if version == state.previous else "kept"


def manifest_or_fault(store: ModelRepository, version: int) -> tuple[dict[str, Any], str | None]:
    """The manifest of `version` and None; where it is damaged, an empty one and what is wrong."""
    try:
        return store.manifest(version), None
    except ReleaseError as error:
        return {}, str(error)


def _line(store: ModelRepository, state: ReleaseState, version: int) -> dict[str, Any]:
    manifest, damaged = manifest_or_fault(store, version)
    lineage = manifest.get("lineage") or {}
    facts = ("name", "published_at", "recipe", "bytes", "metrics", "feature_service")
    return {
        "version": version,
        "role": role_of(state, version),
        **{key: manifest.get(key) for key in facts},
        "disk_bytes": sum(size_in_bytes(store.version_folder(model, version)) for model in MODELS),
        **{key: lineage.get(key) for key in ("run", "code_version", "data", "configuration")},
        "incomplete": [] if damaged else missing_from(manifest),
        "damaged": damaged,
    }
