"""User rows by pseudonym, kept in memory: at most one look-up at a time for each user.

A row past its time is kept as long as there is room: where the store fails, an old row is better than none.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from leanrec.config import GatewaySettings
from leanrec.errors import FeatureStoreError
from leanrec.features.rows import UserRow
from serving.gateway.metrics import Metrics

_log = logging.getLogger(__name__)


class Store(Protocol):
    """Where rows come from: `leanrec.features.online.OnlineUsers`; it may block."""

    def row(self, user_pseudonym: str) -> UserRow | None:
        """The user's row; None when nothing is stored of the user."""


@dataclass(eq=False)
class User:
    """A user as the store had him at `read_at` (monotonic seconds); `row` is None when it had nothing."""

    row: UserRow | None
    read_at: float
    requests: dict[tuple[str, int], bytes] = field(default_factory=dict)
    """Encoded requests by model and version: they change only with the row."""

    @cached_property
    def seen(self) -> frozenset[int]:
        """Item indices that the user has had to do with."""
        return frozenset(self.row.seen.tolist()) if self.row else frozenset()


class Users:
    """A cache in front of the store; used from one event loop."""

    def __init__(
        self,
        store: Callable[[], Store],
        settings: GatewaySettings,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open = store
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._pool = ThreadPoolExecutor(settings.store_threads, thread_name_prefix="store")
        self._kept: OrderedDict[str, User] = OrderedDict()
        self._pending: dict[str, asyncio.Task[User]] = {}
        self._closed_until = 0.0
        self.store_answers = True
        """Whether the last look-up was answered."""

    @cached_property
    def _store(self) -> Store:
        return self._open()

    async def get(self, user_pseudonym: str) -> tuple[User, bool]:
        """The user, and whether the row is past its time because the store does not answer.

        A FeatureStoreError when it does not and no older row is kept.
        """
        kept = self._kept.get(user_pseudonym)
        if kept and self._clock() - kept.read_at < self._settings.user_cache_ttl_s:
            self._kept.move_to_end(user_pseudonym)
            self._metrics.user_cache.labels("hit").inc()
            return kept, False
        try:
            return await self._joined(user_pseudonym), False
        except FeatureStoreError:
            if kept is None:
                self._metrics.user_cache.labels("failed").inc()
                raise
            self._metrics.user_cache.labels("stale").inc()
            return kept, True

    def forget(self, user_pseudonym: str) -> None:
        """The row has changed: the next request reads it anew; until then it is past its time."""
        self._pending.pop(user_pseudonym, None)
        kept = self._kept.get(user_pseudonym)
        if kept:
            kept.read_at = float("-inf")

    def close(self) -> None:
        """Let the threads go; a look-up under way ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _joined(self, user_pseudonym: str) -> User:
        """The row from the store; whoever asks while it is read gets the same answer."""
        task = self._pending.get(user_pseudonym)
        if task is None:
            self._metrics.user_cache.labels("miss").inc()
            task = asyncio.ensure_future(self._read(user_pseudonym))
            self._pending[user_pseudonym] = task
            task.add_done_callback(lambda done: self._keep(user_pseudonym, done))
        else:
            self._metrics.user_cache.labels("joined").inc()
        return await asyncio.shield(task)

    async def _read(self, user_pseudonym: str) -> User:
        now = self._clock()
        if now < self._closed_until:
            raise FeatureStoreError("the online store failed a moment ago; it is asked again shortly")
        look_up = asyncio.get_running_loop().run_in_executor(self._pool, self._row, user_pseudonym)
        try:
            row = await asyncio.wait_for(look_up, self._settings.store_deadline_ms / 1e3)
        except Exception as error:  # whatever the store's library raises, an answer is still possible
            self._closed_until = self._clock() + self._settings.store_pause_ms / 1e3
            reason = str(error) or type(error).__name__
            if self.store_answers:  # once for each time that the store goes away
                _log.error("user rows cannot be read, so answers are degraded: %s", reason)
            self.store_answers = False
            raise FeatureStoreError(f"the online store does not answer: {reason}") from None
        self.store_answers = True
        return User(row=row, read_at=now)

    def _row(self, user_pseudonym: str) -> UserRow | None:
        return self._store.row(user_pseudonym)

    def _keep(self, user_pseudonym: str, task: asyncio.Task[User]) -> None:
        # A look-up that `forget` has overtaken may hold the row from before the change.
        if self._pending.get(user_pseudonym) is not task:
            task.cancelled() or task.exception()
            return
        del self._pending[user_pseudonym]
        if task.cancelled() or task.exception():
            return
        self._kept[user_pseudonym] = task.result()
        self._kept.move_to_end(user_pseudonym)
        while len(self._kept) > self._settings.user_cache_size:
            self._kept.popitem(last=False)
