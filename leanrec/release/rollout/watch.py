"""Who watches a rollout: one controller at a time, which holds a lock and touches it at every look."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from leanrec.config.rollout import RolloutSettings
from leanrec.release.folders import is_held, locked
from leanrec.release.state import Rollout

LOCK = ".rollout.lock"
PATIENCE_S = 1.0
"""Seconds that a controller waits for the lock; whoever only asks whether it is held has it for a moment."""


@contextmanager
def watching(repository: Path) -> Iterator[None]:
    """Be the only controller of this repository; a ReleaseError where another one is at work."""
    refusal = (
        f"{repository}: another rollout is at work (process {{}}); wait for it, or end it with"
        " `leanrec release abort`"
    )
    with locked(repository / LOCK, PATIENCE_S, refusal):
        yield


def touch(repository: Path) -> None:
    """Note that the controller looked just now."""
    os.utime(repository / LOCK)


def is_watched(repository: Path) -> bool:
    """Whether a controller is at work."""
    return is_held(repository / LOCK)


def unwatched_s(repository: Path, rollout: Rollout) -> float:
    """Seconds since a controller looked, or since the stage began if none did; 0 while one is at work."""
    if is_watched(repository):
        return 0.0
    last = datetime.fromisoformat(rollout.since).timestamp()
    with suppress(FileNotFoundError):
        last = max(last, (repository / LOCK).stat().st_mtime)
    return max(0.0, time.time() - last)


def is_abandoned(settings: RolloutSettings, rollout: Rollout, for_s: float) -> bool:
    """Whether a rollout that nobody has watched `for_s` seconds is one that nobody will go on with.

    A candidate that was sent to nobody yet waits for a person, unless runs roll out what they publish.
    """
    waits = rollout.stage == "candidate" and not settings.after_publish
    return settings.abandoned_after_s is not None and for_s > settings.abandoned_after_s and not waits
