"""Releases that did not answer well, or not in time: each is counted, by the rules of who is to blame.

Why stands in the log, once a minute for each kind.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time

from leanrec.errors import ServingError
from leanrec.triton.async_client import GoneError, NotServedError
from serving.gateway.fallback import Asked, Failed, First
from serving.gateway.metrics import Metrics
from serving.gateway.releases import Target

LOG_EVERY_S = 60.0

_log = logging.getLogger(__name__)


class Failures:
    """What went wrong when releases were asked."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._logged: dict[tuple[type, int, str], float] = {}
        """Kind of failure -> when it was last logged."""
        self._late: set[asyncio.Task] = set()
        """Candidates' answers that nobody waits for."""

    def note(self, route: str, failed: Failed, *, blamed: Target | None = None) -> None:
        """Count failures of `route`, as the metrics call it; where no release answered, those of `blamed` and
        of a candidate.

        Where there is no Triton to answer for any release, or none that serves one (yet), a candidate is not
        to blame; its own silence is its fault, whatever becomes of the stable release.
        """
        is_gone = all(isinstance(error, GoneError | NotServedError) for _, error in failed)
        for target, error in failed:
            if blamed in (None, target) or (target.stage == "candidate" and not is_gone):
                self._count(route, target, error)

    def follow_late(self, route: str, first: First, begun: float) -> None:
        """Count what becomes of a candidate that still has time when another has answered in its place.

        It was asked at `begun`, the loop's time, and an answer counts with the time that it took: one that is
        slow shall be found by its p99, and would not be if its fast answers alone were known.
        """
        if first.late is None:
            return

        def count(late: asyncio.Task[Asked]) -> None:
            self._late.discard(late)
            if late.cancelled():  # the gateway ends
                return
            answered, failed = late.result()
            self.note(route, failed)
            if answered is not None:
                target = answered.target
                version, outcome = str(target.release.version), "ok" if answered.answer else "empty"
                seconds = asyncio.get_running_loop().time() - begun
                self._metrics.requests.labels(route, version, target.stage, outcome).inc()
                self._metrics.seconds.labels(route, version, outcome).observe(seconds)

        self._late.add(first.late)
        first.late.add_done_callback(count)

    def _count(self, route: str, target: Target, error: ServingError) -> None:
        version = target.release.version
        self._metrics.requests.labels(route, str(version), target.stage, "error").inc()
        kind, now = (type(error), version, target.stage), time.monotonic()
        if now - self._logged.get(kind, -math.inf) >= LOG_EVERY_S:
            self._logged[kind] = now
            _log.warning("release %s (%s) did not answer: %s", version, target.stage, error)
