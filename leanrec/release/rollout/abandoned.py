"""End a rollout whose controller is gone, so that no candidate goes on unwatched and the next run begins."""

from __future__ import annotations

import logging
from pathlib import Path

from leanrec.config import ReleaseSettings
from leanrec.config.rollout import RolloutSettings
from leanrec.release.mirror import push_where_stored
from leanrec.release.promote import withdraw
from leanrec.release.repository import ModelRepository
from leanrec.release.rollout.watch import is_abandoned, unwatched_s

_log = logging.getLogger(__name__)


def withdraw_abandoned(settings: RolloutSettings, release: ReleaseSettings) -> None:
    """Withdraw the candidate that nobody has watched for `rollout.abandoned_after_s`, if there is one.

    The stable version goes on serving, and what was withdrawn is kept. Raises what a withdrawal raises.
    """
    repository = ModelRepository(Path(release.repository).absolute())
    state = repository.state()
    if state is None or state.rollout is None:
        return
    rollout, for_s = state.rollout, unwatched_s(repository.path, state.rollout)
    if not is_abandoned(settings, rollout, for_s):
        return
    reason = f"{rollout.shown()}: no controller watched it for {for_s:.0f} s"
    withdraw(repository.path, f"{reason}, bound {settings.abandoned_after_s:g}", only=rollout)
    _log.warning("version %d was withdrawn; %s", rollout.version, reason)
    push_where_stored(release)
