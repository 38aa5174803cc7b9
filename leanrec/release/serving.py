"""The release that serves now, as the next one's training and its judges see it."""

from __future__ import annotations

from pathlib import Path

from leanrec.config import ReleaseSettings, TrainingSettings
from leanrec.release.repository import ModelRepository


def stable_release(settings: ReleaseSettings) -> Path | None:
    """The `release` folder of the stable version; None before the first release."""
    repository = ModelRepository(Path(settings.repository).absolute())
    state = repository.state()
    return repository.release_folder(state.stable) if state else None


def warm_start_release(training: TrainingSettings, release: ReleaseSettings) -> Path | None:
    """What `training.warm_start` goes on from: the stable release, for the newest may have been rolled back.

    None where the settings ask for nothing, or before the first release.
    """
    return stable_release(release) if training.warm_start == "release" else None
