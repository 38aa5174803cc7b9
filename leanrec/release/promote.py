"""Move the stable version: offer and accept a candidate, promote, roll back, and say what is served."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from leanrec.errors import ReleaseError
from leanrec.release.integrity import require_whole
from leanrec.release.listing import manifest_or_fault, role_of
from leanrec.release.repository import ModelRepository, now
from leanrec.release.requests import same_tensors
from leanrec.release.rollout.watch import is_watched
from leanrec.release.state import (
    WHY_BY_HAND,
    ReleaseState,
    Rollout,
    Stage,
    accepted,
    offered,
    promoted,
    rolled_back,
    staged,
    stated_reason,
    withdrawn,
)


def promote(repository: Path, version: int, reason: str = WHY_BY_HAND["promote"]) -> int:
    """Make `version`, one of those kept, the one that clients get; returns it.

    `reason` stands in the history. Here as in every change of what is served: a ReleaseError when a version
    that would begin to answer is not what was published, file by file, or when another writer does not end
    within `repository.PATIENCE_S`.
    """
    store = ModelRepository(Path(repository).absolute())
    reason = stated_reason(reason)

    def decide(before: ReleaseState) -> ReleaseState:
        known = version in before.versions
        beside = known and same_tensors([store.release_folder(v) for v in (before.stable, version)])
        return promoted(before, version, at=now(), beside=beside, reason=reason)

    return _change(repository, decide).stable


def rollback(repository: Path, reason: str = WHY_BY_HAND["rollback"]) -> int:
    """Make the version before the stable one stable again; returns its number.

    During a rollout the candidate goes instead, and the stable version stays.
    """
    reason = stated_reason(reason)
    return _change(repository, lambda state: rolled_back(state, at=now(), reason=reason)).stable


def offer(repository: Path, version: int) -> None:
    """Make `version`, one of those kept, a candidate: served under names of its own, and sent to nobody."""
    _change(repository, lambda state: offered(state, version, at=now(), salt=secrets.token_hex(8)))


def advance(
    repository: Path,
    stage: Stage,
    *,
    percent: float = 0.0,
    shadow_percent: float = 0.0,
    reason: str,
    only: Rollout | None = None,
) -> None:
    """Put the candidate into `stage`.

    With `only`, the rollout that was judged, a ReleaseError when it is not the one under way any more; such
    a decision waits for other writers as long as they take, for nobody would make it again.
    """
    _change(
        repository,
        lambda state: staged(
            state, stage, percent=percent, shadow_percent=shadow_percent, at=now(), reason=reason
        ),
        only,
    )


def accept(repository: Path, reason: str, *, only: Rollout | None = None) -> int:
    """Make the candidate the stable version; returns its number. `only` as for `advance`."""
    store = ModelRepository(Path(repository).absolute())

    def decide(state: ReleaseState) -> ReleaseState:
        pair = [store.release_folder(v) for v in (state.stable, state.required_rollout().version)]
        return accepted(state, at=now(), beside=same_tensors(pair), reason=reason)

    return _change(repository, decide, only).stable


def withdraw(repository: Path, reason: str, *, only: Rollout | None = None) -> int:
    """End the rollout; returns the stable version, which goes on. `only` as for `advance`."""
    return _change(repository, lambda state: withdrawn(state, at=now(), reason=reason), only).stable


def status(repository: Path) -> dict[str, Any]:
    """What the repository keeps and serves.

    `watched` says whether a controller is at work on the rollout, if there is one. `settled` is False while a
    writer is at work, or after one was killed: the next publish, promote or rollback finishes or undoes what
    it left. `damaged` of a version says why its manifest cannot be read.
    """
    store = ModelRepository(Path(repository).absolute())
    state = store.required_state()
    manifests = {version: manifest_or_fault(store, version) for version in state.versions}
    return {
        "repository": str(store.path),
        "stable": state.stable,
        "previous": state.previous,
        "served": list(state.served),
        "rollout": asdict(state.rollout) if state.rollout else None,
        "watched": is_watched(store.path) if state.rollout else None,
        "settled": store.is_settled(),
        "versions": [
            {
                "version": version,
                "role": role_of(state, version),
                **{key: facts.get(key) for key in ("name", "published_at", "bytes", "recipe")},
                "damaged": damaged,
            }
            for version, (facts, damaged) in manifests.items()
        ],
        "history": list(state.history),
    }


def require_unchanged(state: ReleaseState, rollout: Rollout) -> None:
    """A ReleaseError unless `rollout` is the one under way, in the stage that it was in."""
    if state.rollout != rollout:
        raise ReleaseError("somebody else changed the rollout; `leanrec release status` shows what it is now")


def _change(
    repository: Path, decide: Callable[[ReleaseState], ReleaseState], only: Rollout | None = None
) -> ReleaseState:
    store = ModelRepository(Path(repository).absolute())
    whole: set[int] = set()

    def decided() -> ReleaseState:
        before = store.required_state()
        if only is not None:
            require_unchanged(before, only)
        after = decide(before)
        for version in sorted(_answering(after) - _answering(before) - whole):
            require_whole(store, version)
            whole.add(version)
        return after

    decided()  # once before anybody has to wait: to look at every byte of a large version takes long
    with store.exclusive(wait_s=None if only is None else math.inf):
        return store.commit(decided(), store.stage())


def _answering(state: ReleaseState) -> set[int]:
    return {state.stable, state.rollout.version} if state.rollout else {state.stable}
