"""Move the stable version: promote, roll back, and say what is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from leanrec.release.repository import ModelRepository, now, same_tensors
from leanrec.release.state import promoted, rolled_back


def promote(repository: Path, version: int) -> int:
    """Make `version`, one of those kept, the one that clients get; returns it."""
    store = ModelRepository(Path(repository).absolute())
    store.required_state()
    with store.exclusive():
        before = store.required_state()
        known = version in before.versions
        beside = known and same_tensors([store.release_folder(v) for v in (before.stable, version)])
        state = promoted(before, version, at=now(), beside=beside)
        store.commit(state, store.stage())
    return state.stable


def rollback(repository: Path) -> int:
    """Make the version before the stable one stable again; returns its number."""
    store = ModelRepository(Path(repository).absolute())
    store.required_state()
    with store.exclusive():
        state = rolled_back(store.required_state(), at=now())
        store.commit(state, store.stage())
    return state.stable


def status(repository: Path) -> dict[str, Any]:
    """What the repository keeps and serves.

    `settled` is False while a writer is at work, or after one was killed: the next publish, promote or
    rollback finishes or undoes what it left.
    """
    store = ModelRepository(Path(repository).absolute())
    state = store.required_state()
    manifests = {version: store.manifest(version) for version in state.versions}
    return {
        "repository": str(store.path),
        "stable": state.stable,
        "previous": state.previous,
        "served": list(state.served),
        "settled": store.is_settled(),
        "versions": [
            {
                "version": version,
                **{key: facts.get(key) for key in ("name", "published_at", "bytes", "recipe")},
            }
            for version, facts in manifests.items()
        ],
        "history": list(state.history),
    }


def verify(repository: Path, version: int) -> list[str]:
    """What differs from the manifest of `version`, one sentence a file; empty when all is as published."""
    return ModelRepository(Path(repository).absolute()).verify(version)
