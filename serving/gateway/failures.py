"""Failures of a release: each is counted, and why stands in the log, once a minute for each kind."""

from __future__ import annotations

import logging
import math
import time

from leanrec.errors import ServingError
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

    def note(self, route: str, target: Target, error: ServingError) -> None:
        """`target` was asked for `route` (as the metrics call it) and did not answer well."""
        version = target.release.version
        self._metrics.requests.labels(route, str(version), target.stage, "error").inc()
        kind, now = (type(error), version, target.stage), time.monotonic()
        if now - self._logged.get(kind, -math.inf) >= LOG_EVERY_S:
            self._logged[kind] = now
            _log.warning("release %s (%s) did not answer: %s", version, target.stage, error)
