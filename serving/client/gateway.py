"""The gateway over HTTP, blocking and async: typed answers, a deadline, one retry where nothing answered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, Self, Unpack

import httpx

from leanrec.errors import ServingError
from serving.client import calls, values
from serving.client.calls import AnswerT, Call, GatewayError, Wishes
from serving.gateway.api import (
    ItemsAnswer,
    RankAnswer,
    RecommendationAnswer,
    ReleasesAnswer,
    SimilarAnswer,
    UserAnswer,
)
from serving.gateway.event_models import Event, EventsAnswer

__all__ = ["AsyncGatewayClient", "GatewayClient", "GatewayError"]

MAX_TIMEOUT_S = 86_400


class GatewayClient:
    """The gateway at `url`, as whoever has `api_key`; safe to share between threads.

    A call waits at most `timeout_s` seconds for the connection and for each part of the answer. Where the
    connection fails or breaks off, or the time runs out, it is made once more; then a ServingError says so.
    What the gateway refuses is a GatewayError with its sentence. What no request can carry is a ServingError
    that names it, and is not sent.
    """

    def __init__(self, url: str, api_key: str, *, timeout_s: float = 2.0) -> None:
        self._client = httpx.Client(**_options(url, api_key, timeout_s))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def recommend(self, user_id: str, k: int = 10, **wishes: Unpack[Wishes]) -> RecommendationAnswer:
        """The best `k` items for a user, best first."""
        return self._send(calls.recommend(user_id, k, wishes))

    def rank(self, user_id: str, item_ids: Iterable[str]) -> RankAnswer:
        """Figures for each of `item_ids`, in that order."""
        return self._send(calls.rank(user_id, item_ids))

    def similar(self, item_id: str, k: int | None = None) -> SimilarAnswer:
        """The `k` items nearest to an item; without `k` ten, or all where there are fewer."""
        return self._send(calls.similar(item_id, k))

    def search_items(self, words: str = "", limit: int = 20) -> ItemsAnswer:
        """Items whose title holds `words`."""
        return self._send(calls.search_items(words, limit))

    def user(self, user_id: str) -> UserAnswer:
        """What is stored of a user."""
        return self._send(calls.user(user_id))

    def releases(self) -> ReleasesAnswer:
        """The releases, and what answers."""
        return self._send(calls.releases())

    def send_events(self, events: Sequence[Event]) -> EventsAnswer:
        """Tell what users did; once it returns, the events are on the gateway's disk."""
        return self._send(calls.send_events(events))

    def _send(self, call: Call[AnswerT]) -> AnswerT:
        with calls.told(self._client, call):
            request = call.request(self._client)
            try:
                response = self._client.send(request)
            except httpx.TransportError:
                response = self._client.send(request)
        return call.read(response)


class AsyncGatewayClient:
    """`GatewayClient` for asyncio."""

    def __init__(self, url: str, api_key: str, *, timeout_s: float = 2.0) -> None:
        self._client = httpx.AsyncClient(**_options(url, api_key, timeout_s))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def recommend(self, user_id: str, k: int = 10, **wishes: Unpack[Wishes]) -> RecommendationAnswer:
        """The best `k` items for a user, best first."""
        return await self._send(calls.recommend(user_id, k, wishes))

    async def rank(self, user_id: str, item_ids: Iterable[str]) -> RankAnswer:
        """Figures for each of `item_ids`, in that order."""
        return await self._send(calls.rank(user_id, item_ids))

    async def similar(self, item_id: str, k: int | None = None) -> SimilarAnswer:
        """The `k` items nearest to an item; without `k` ten, or all where there are fewer."""
        return await self._send(calls.similar(item_id, k))

    async def search_items(self, words: str = "", limit: int = 20) -> ItemsAnswer:
        """Items whose title holds `words`."""
        return await self._send(calls.search_items(words, limit))

    async def user(self, user_id: str) -> UserAnswer:
        """What is stored of a user."""
        return await self._send(calls.user(user_id))

    async def releases(self) -> ReleasesAnswer:
        """The releases, and what answers."""
        return await self._send(calls.releases())

    async def send_events(self, events: Sequence[Event]) -> EventsAnswer:
        """Tell what users did; once it returns, the events are on the gateway's disk."""
        return await self._send(calls.send_events(events))

    async def _send(self, call: Call[AnswerT]) -> AnswerT:
        with calls.told(self._client, call):
            request = call.request(self._client)
            try:
                response = await self._client.send(request)
            except httpx.TransportError:
                response = await self._client.send(request)
        return call.read(response)


def _options(url: str, api_key: str, timeout_s: float) -> dict[str, Any]:
    if not _is_address(url):
        raise values.refused("url", url, "is no address of a gateway; give it like http://localhost:8080")
    if not _is_key(api_key):
        raise ServingError("the API key is empty or holds what no key holds; give one of the gateway's")
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, Real) or not 0 < timeout_s <= MAX_TIMEOUT_S:
        rule = f"is no number of seconds above 0 and up to {MAX_TIMEOUT_S}; give one"
        raise values.refused("timeout_s", timeout_s, rule)
    return {"base_url": url, "headers": {"X-API-Key": api_key}, "timeout": float(timeout_s)}


def _is_address(url: object) -> bool:
    try:
        read = httpx.URL(url)  # type: ignore[arg-type]
    except (httpx.InvalidURL, TypeError, ValueError):
        return False
    return read.scheme in ("http", "https") and bool(read.host) and not (read.query or read.fragment)


def _is_key(key: object) -> bool:
    return isinstance(key, str) and key.isascii() and key.isprintable() and bool(key) and key == key.strip()
