"""Replay sampled requests at the candidate, after they were answered, and compare; nobody sees the result."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leanrec.errors import ServingError
from serving.gateway.api import RecommendationAnswer, RecommendationRequest
from serving.gateway.releases import Target
from serving.gateway.users import User

if TYPE_CHECKING:
    from serving.gateway.gateway import Gateway

COMPARED = 10
"""Items, from the top, that are compared."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A request that was answered, and what was answered."""

    target: Target
    request: RecommendationRequest
    user: User
    answered: list[str]


class Shadow:
    """A bounded queue of replays, worked off one at a time; what finds it full is dropped."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._queue: asyncio.Queue[Replay] = asyncio.Queue(gateway.settings.gateway.shadow_queue)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work the queue off."""
        self._task = asyncio.create_task(self._run())

    async def stop(self, timeout_s: float) -> None:
        """Finish what is queued within `timeout_s`, and cease."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._queue.join(), timeout_s)
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def offer(self, request: RecommendationRequest, answer: RecommendationAnswer, user: User) -> None:
        """Queue the request if it is sampled; a degraded answer or a stranger's compares nothing."""
        if request.release is not None or answer.degraded or user.row is None or answer.stage != "stable":
            return
        target = self._gateway.releases.shadow(answer.request_id)
        if target is None:
            return
        try:
            answered = [item.item_id for item in answer.items]
            self._queue.put_nowait(Replay(target=target, request=request, user=user, answered=answered))
        except asyncio.QueueFull:
            self._count(target, "dropped")

    async def _run(self) -> None:
        while True:
            replay = await self._queue.get()
            try:
                await self._replay(replay)
            finally:
                self._queue.task_done()

    async def _replay(self, replay: Replay) -> None:
        metrics, release = self._gateway.metrics, replay.target.release
        started = time.perf_counter()
        try:
            recommender = self._gateway.recommender
            items = await recommender.from_model(
                replay.target, replay.request, replay.user, recommender.deadline()
            )
        except Exception as error:  # the next replay is another one
            if not isinstance(error, ServingError):
                _log.exception("a replay at release %s failed", release.version)
            self._count(replay.target, "error")
            return
        version, outcome = str(release.version), "ok" if items else "empty"
        metrics.seconds.labels("shadow", version, outcome).observe(time.perf_counter() - started)
        self._count(replay.target, outcome)
        if items:
            metrics.score.labels(version).observe(items[0][1])
        compared = replay.answered[:COMPARED]
        if compared:
            there = {release.catalogue.item_ids[item] for item, _ in items[:COMPARED]}
            metrics.shadow_overlap.labels(version).observe(len(there.intersection(compared)) / len(compared))

    def _count(self, target: Target, outcome: str) -> None:
        self._gateway.metrics.shadow.labels(str(target.release.version), outcome).inc()
