"""One gateway: what it keeps open and the parts that answer. The application and its routers share it."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from leanrec.config import RunSettings
from leanrec.data.pseudonyms import load_key
from leanrec.errors import FeatureStoreError
from leanrec.features.online import OnlineUsers
from leanrec.triton.async_client import AsyncTritonClient
from serving.gateway import request_id
from serving.gateway.events import Feedback
from serving.gateway.keys import ApiKeys, keys_file
from serving.gateway.limits import RateLimit
from serving.gateway.metrics import Metrics
from serving.gateway.recommender import Recommender
from serving.gateway.releases import Releases
from serving.gateway.shadow import Shadow
from serving.gateway.users import Store, Users

NOBODY = "0" * 32
"""A pseudonym that nobody has: asked for once at the start, so that the store is open."""

_log = logging.getLogger(__name__)


class Gateway:
    """The parts of a gateway; nothing is opened before `start`.

    `store` opens the user rows, by default the run's online store.
    """

    feedback: Feedback
    users: Users
    triton: AsyncTritonClient
    releases: Releases
    recommender: Recommender
    shadow: Shadow

    def __init__(self, settings: RunSettings, store: Callable[[], Store] | None = None) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.draining = False
        self._drained_at = 0.0
        self.in_flight = 0
        self._opened = AsyncExitStack()
        self._open_store = store or (lambda: OnlineUsers(settings.feature_store))

    async def start(self) -> None:
        """Open everything. A LeanRecError says what is missing; a store that is down is not.

        `stop` closes what was opened, also where this raised.
        """
        settings = self.settings.gateway
        self.pseudonym_key = load_key()
        self.request_id_key = request_id.derive_key(self.pseudonym_key)
        self.keys = ApiKeys(keys_file(settings.keys))
        self.rate_limit = RateLimit(settings.requests_per_s, settings.burst)
        self.users = Users(self._open_store, settings, self.metrics)
        self._opened.callback(self.users.close)
        self.triton = AsyncTritonClient(
            triton_addresses(self.settings),
            deadline_s=settings.deadline_ms / 1e3,
            hedge_after_s=settings.hedge_after_ms / 1e3,
            resolve_s=settings.resolve_s,
        )
        self._opened.push_async_callback(self.triton.close)
        await self.triton.follow()
        self.releases = Releases(
            Path(self.settings.release.repository), self.triton, settings.follow_ms / 1e3
        )
        self._opened.push_async_callback(self.releases.stop)
        await self.releases.start()
        # Asked now, so that the connections stand before the first request.
        if not await self.releases.is_answering():
            _log.warning("no Triton answers release %s yet", self.releases.stable.version)
        self.recommender = Recommender(self)
        self.feedback = Feedback(
            self.settings,
            pseudonym_key=self.pseudonym_key,
            request_key=self.request_id_key,
            index_of=self._index_of,
            forget=self.users.forget,
            metrics=self.metrics,
        )
        self._opened.push_async_callback(self.feedback.close)
        self.shadow = Shadow(self)
        self.shadow.start()
        self._opened.push_async_callback(self._stop_shadow)
        with suppress(FeatureStoreError):  # logged there; answers are degraded until it answers
            await self.users.get(NOBODY)
        # What lives as long as the process need not be looked through while somebody waits.
        gc.collect()
        gc.freeze()

    async def stop(self) -> None:
        """Finish what is under way, within the bound of `drain_s`, and close what was opened, last first."""
        self.drain()
        await self._opened.aclose()
        gc.unfreeze()

    def drain(self) -> None:
        """Tell everybody that it is about to end; requests under way get `drain_s` from now on."""
        if not self.draining:
            self.draining = True
            self._drained_at = time.monotonic() + self.settings.gateway.drain_s

    async def _stop_shadow(self) -> None:
        await self.shadow.stop(max(0.0, self._drained_at - time.monotonic()))

    def _index_of(self, item_id: str) -> int | None:
        return self.releases.stable.catalogue.index_of.get(item_id)


def triton_addresses(settings: RunSettings) -> tuple[str, ...]:
    """The gRPC addresses of the Triton replicas, or names that stand for several."""
    serving = settings.serving
    return settings.gateway.triton or (f"{serving.host}:{serving.grpc_port}",)
