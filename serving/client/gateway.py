"""The gateway over HTTP, blocking and async: typed answers, a deadline, one retry where nothing answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, Unpack

import httpx

from leanrec.errors import ServingError
from serving.client import calls
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


class GatewayClient:
    """The gateway at `url`, as whoever has `api_key`; safe to share between threads.

    A call waits at most `timeout_s` seconds for the connection and for each part of the answer. Where the
    connection fails or breaks off, or the time runs out, it is made once more; then a ServingError says so.
    What the gateway refuses is a GatewayError with its sentence.
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

    def rank(self, user_id: str, item_ids: Sequence[str]) -> RankAnswer:
        """Figures for each of `item_ids`, in that order."""
        return self._send(calls.rank(user_id, item_ids))

    def similar(self, item_id: str, k: int = 10) -> SimilarAnswer:
        """The `k` items nearest to an item."""
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
        request = call.request(self._client)
        try:
            try:
                response = self._client.send(request)
            except httpx.TransportError:
                response = self._client.send(request)
        except httpx.TransportError as error:
            raise _no_answer(request, error) from None
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

    async def rank(self, user_id: str, item_ids: Sequence[str]) -> RankAnswer:
        """Figures for each of `item_ids`, in that order."""
        return await self._send(calls.rank(user_id, item_ids))

    async def similar(self, item_id: str, k: int = 10) -> SimilarAnswer:
        """The `k` items nearest to an item."""
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
        request = call.request(self._client)
        try:
            try:
                response = await self._client.send(request)
            except httpx.TransportError:
                response = await self._client.send(request)
        except httpx.TransportError as error:
            raise _no_answer(request, error) from None
        return call.read(response)


def _options(url: str, api_key: str, timeout_s: float) -> dict[str, Any]:
    if not url.startswith(("http://", "https://")):
        raise ServingError(f"{url!r} is no address of a gateway; give it like http://localhost:8080")
    if not (api_key.isascii() and api_key.isprintable() and api_key):
        raise ServingError("the API key is empty or holds what no key holds; give one of the gateway's")
    return {"base_url": url, "headers": {"X-API-Key": api_key}, "timeout": timeout_s}


def _no_answer(request: httpx.Request, error: httpx.TransportError) -> ServingError:
    reason = str(error) or type(error).__name__
    return ServingError(
        f"{request.url}: no answer, twice ({reason}); start one with `leanrec gateway`, or give the call"
        " more time"
    )
