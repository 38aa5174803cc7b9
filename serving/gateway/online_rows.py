"""What users just did, brought into their online rows by one thread, a group at a time.

The event log has every event already, so nothing is lost here for good: what cannot be brought online now
is tried again while there is room to keep it, and the next materialization, which reads the log, makes up
for the rest.

Changing a row is reading and writing it: gateways that share the event log push one after another, under a
lock, so that none undoes what another has just done.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Protocol

from leanrec.errors import FeatureStoreError
from leanrec.features.push import Rating
from serving.gateway.metrics import Metrics

MAX_WAITING = 10_000
"""Ratings kept while the store does not answer; older ones wait for the next materialization."""

Ratings = Mapping[str, Sequence[Rating]]
"""New ratings by the user's pseudonym."""

_log = logging.getLogger(__name__)


class Writer(Protocol):
    """Where rows go: `leanrec.features.push.OnlineUsersWriter`; it may block."""

    def push(self, ratings: Ratings) -> None:
        """Add the ratings to the rows online; a FeatureStoreError when the store does not take them."""


class OnlineRows:
    """The one pusher of a gateway. `pause_s` lie between two tries while the store does not answer."""

    def __init__(
        self,
        open_writer: Callable[[], Writer],
        lock: AbstractContextManager[object],
        pause_s: float,
        metrics: Metrics,
    ) -> None:
        self._open_writer = open_writer
        self._lock = lock
        self._pause_s = max(pause_s, 0.01)
        self._metrics = metrics
        self._waiting: list[tuple[Ratings, Future[None]]] = []
        self._changed = threading.Condition()
        self._closing = False
        self._failing = False
        self._thread = threading.Thread(target=self._work, name="online-rows", daemon=True)
        self._thread.start()

    def push(self, ratings: Ratings) -> Future[None]:
        """Bring `ratings` online; the future is done once they are, or once they are given up."""
        future: Future[None] = Future()
        with self._changed:
            self._waiting.append((ratings, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Try once more what waits, then end."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        writer = None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                group, self._waiting = self._waiting, []
                last = self._closing
            try:
                if group:
                    writer = writer or self._open_writer()
                    with self._lock:
                        writer.push(_merged([ratings for ratings, _ in group]))
            except Exception as error:  # the thread lives on whatever a store's library raises
                self._failed(group, error)
            else:
                self._failing = False
                self._count("ok", group)
                for _, future in group:
                    future.set_result(None)
            if last:
                return

    def _failed(self, group: list[tuple[Ratings, Future[None]]], error: Exception) -> None:
        if not self._failing:  # once for each time that the store goes away
            trace = None if isinstance(error, FeatureStoreError) else error
            _log.error("ratings wait to be brought online: %s", error, exc_info=trace)
        self._failing = True
        self._count("failed", group)
        with self._changed:
            self._waiting = group + self._waiting
            while sum(_size(ratings) for ratings, _ in self._waiting) > MAX_WAITING:
                dropped = self._waiting.pop(0)
                self._count("dropped", [dropped])
                dropped[1].set_result(None)
            self._changed.wait_for(lambda: self._closing, timeout=self._pause_s)

    def _count(self, outcome: str, group: list[tuple[Ratings, Future[None]]]) -> None:
        self._metrics.pushes.labels(outcome).inc(sum(_size(ratings) for ratings, _ in group))


def _size(ratings: Ratings) -> int:
    return sum(len(new) for new in ratings.values())


def _merged(group: Sequence[Ratings]) -> dict[str, list[Rating]]:
    merged: dict[str, list[Rating]] = {}
    for ratings in group:
        for user, new in ratings.items():
            merged.setdefault(user, []).extend(new)
    return merged
