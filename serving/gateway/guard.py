"""The door: who may come in, how many, how large; and what is noted of each request on its way out."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from fastapi import Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.gateway import request_id
from serving.gateway.faults import fault_response
from serving.gateway.metrics import counted_route

if TYPE_CHECKING:
    from serving.gateway.gateway import Gateway

GUARDED = "/v1/"
KEY_HEADER = b"x-api-key"
FACTS = "leanrec_facts"
OVERLOADED_RETRY_S = 1

_log = logging.getLogger(__name__)
access_log = logging.getLogger("leanrec.gateway.access")


@dataclass
class Facts:
    """What the routes tell the door about an answer."""

    request_id: str = ""
    release: int | None = None
    stage: str = ""
    outcome: str = ""
    """ok, empty, stale, degraded or unknown; "" where no release was asked."""
    caller: str = ""
    """The name of the API key."""
    pinned: bool = False
    """Whether the caller chose the release."""


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or let in; every answer gets X-Request-Id, and X-Release where one answered.

        What no part expected is logged and becomes a 500 in the form of every error.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        facts = scope[FACTS] = Facts()
        guarded = scope["path"].startswith(GUARDED)
        status = 0

        async def note_and_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *self._headers(facts)]
                if guarded:  # what is known of a user lies in no cache on the way
                    message["headers"].append((b"cache-control", b"no-store"))
            await send(message)

        refusal = self._refusal(scope, facts) if guarded else None
        try:
            if refusal is not None:
                await refusal(scope, receive, note_and_send)
                return
            self._gateway.in_flight += guarded
            try:
                await self._app(scope, self._bounded(receive), note_and_send)
            except Exception:
                if status:  # the answer is half out: only the server can break it off
                    raise
                failure = fault_response(500, "the gateway failed; its log says why under this X-Request-Id")
                await failure(scope, receive, note_and_send)
                _log.exception("request %s failed", facts.request_id)
            finally:
                self._gateway.in_flight -= guarded
        finally:
            if guarded:
                self._note(scope, facts, status or 500, time.perf_counter() - started)

    def _refusal(self, scope: Scope, facts: Facts) -> Response | None:
        """Why the request may not come in; None when it may."""
        gateway, settings = self._gateway, self._gateway.settings.gateway
        headers = dict(scope["headers"])
        name = gateway.keys.name_of(headers.get(KEY_HEADER, b"").decode("latin-1"))
        if name is None:
            return fault_response(401, "the header X-API-Key is missing or holds no key that is known here")
        facts.caller = name
        wait_s = gateway.rate_limit.take(name)
        if wait_s:
            return fault_response(
                429,
                f"more than {settings.requests_per_s:g} requests a second with this key; slow down",
                {"Retry-After": str(math.ceil(wait_s))},
            )
        if gateway.in_flight >= settings.max_in_flight:
            return fault_response(
                503,
                f"{settings.max_in_flight} requests are being worked on, no more are taken; come again",
                {"Retry-After": str(OVERLOADED_RETRY_S)},
            )
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > settings.max_body_bytes:
            return fault_response(413, self._too_large(), {"Connection": "close"})
        if not (_is_utf8(scope["raw_path"]) and _is_utf8(scope["query_string"])):
            return fault_response(400, "the path or query is not UTF-8; send ids percent-encoded in UTF-8")
        return None

    def _bounded(self, receive: Receive) -> Receive:
        """`receive`, which ends the request once its body is larger, or takes longer, than it may."""
        settings = self._gateway.settings.gateway
        left, complete = settings.max_body_bytes, False
        deadline = asyncio.get_running_loop().time() + settings.body_timeout_s

        async def receive_bounded() -> Message:
            nonlocal left, complete
            if complete:  # what comes now is the caller going away
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                slow = f"the body did not arrive within {settings.body_timeout_s:g} s; send it again"
                raise HTTPException(408, slow, {"Connection": "close"}) from None
            complete = not message.get("more_body", False)
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, self._too_large(), {"Connection": "close"})
            return message

        return receive_bounded

    def _too_large(self) -> str:
        most = self._gateway.settings.gateway.max_body_bytes
        return f"the body is larger than {most} bytes; send less at once"

    def _headers(self, facts: Facts) -> list[tuple[bytes, bytes]]:
        if not facts.request_id:
            facts.request_id = request_id.make(request_id.NO_RELEASE, self._gateway.request_id_key)
        headers = [(b"x-request-id", facts.request_id.encode())]
        if facts.release is not None:
            headers.append((b"x-release", str(facts.release).encode()))
        return headers

    def _note(self, scope: Scope, facts: Facts, status: int, seconds: float) -> None:
        """Count the request and write its line of the access log; neither holds the user or the key."""
        metrics = self._gateway.metrics
        route = counted_route(getattr(scope.get("route"), "path_format", "other"), pinned=facts.pinned)
        release = "none" if facts.release is None else str(facts.release)
        if 400 <= status < 500 or status == 503:
            metrics.refused.labels(route, str(status)).inc()
        else:
            outcome = "error" if status >= 500 else facts.outcome or "ok"
            metrics.requests.labels(route, release, facts.stage or "none", outcome).inc()
            metrics.seconds.labels(route, release, outcome).observe(seconds)
        level = _level(status, facts.outcome)
        if access_log.isEnabledFor(level):
            line = {
                "time": round(time.time(), 3),
                "request_id": facts.request_id,
                "caller": facts.caller,
                "method": scope["method"],
                "route": route,
                "status": status,
                "release": facts.release,
                "outcome": facts.outcome,
                "ms": round(seconds * 1e3, 3),
            }
            access_log.log(level, json.dumps(line))


def _level(status: int, outcome: str) -> int:
    if status >= 500 and status != 503:
        return logging.ERROR
    return logging.WARNING if status >= 400 or outcome in ("degraded", "stale") else logging.INFO


def _is_utf8(quoted: bytes) -> bool:
    try:
        unquote_to_bytes(quoted).decode()
    except UnicodeDecodeError:
        return False
    return True
