"""A closed loop of callers in a process of its own: `python -m benchmarks.load < plan.json`.

Each caller keeps one connection and asks again as soon as it has its answer. The gateway and Triton are
asked in turn, a block each, so that the machine's moods meet both alike. One JSON object comes out: seconds
of every request, by target and number of callers.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import cycle
from typing import Any

import uvloop

from leanrec.triton.async_client import AsyncTritonClient

BLOCK = 100
"""Requests of each caller before the other target has its turn."""

Ask = Callable[[], Awaitable[None]]


class HttpCaller(asyncio.Protocol):
    """One keep-alive connection that sends ready-made requests; an answer other than 200 is an error."""

    def __init__(self, requests: Iterator[bytes]) -> None:
        self._requests = requests
        self._received = b""
        self._answer: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        """An answer ends where its Content-Length says."""
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        if len(body) < length:
            return
        assert self._answer is not None
        self._received = b""
        if head.startswith(b"HTTP/1.1 200"):
            self._answer.set_result(None)
        else:
            self._answer.set_exception(RuntimeError(body.decode()))

    def connection_lost(self, error: Exception | None) -> None:
        """A request without an answer fails."""
        if self._answer and not self._answer.done():
            self._answer.set_exception(RuntimeError(f"the gateway closed the connection: {error}"))

    async def ask(self) -> None:
        """Send the next request and await its answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(next(self._requests))
        await self._answer


async def _measure(plan: dict[str, Any]) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    bodies = cycle([_http_request(plan, user) for user in plan["users"]])
    encoded = cycle([base64.b64decode(request) for request in plan["requests"]])
    triton = AsyncTritonClient([plan["triton"]], deadline_s=10, hedge_after_s=10)
    host, port = plan["gateway"].split(":")
    callers = [
        (await loop.create_connection(lambda: HttpCaller(bodies), host, int(port)))[1]
        for _ in range(max(plan["callers"]))
    ]

    async def ask_triton() -> None:
        await triton.infer(next(encoded))

    gc.collect()
    gc.disable()
    seconds: dict[str, dict[str, list[float]]] = {"gateway": {}, "triton": {}}
    for num_callers in (max(plan["callers"]), *plan["callers"]):  # the first round warms up
        blocks = max(1, plan["num_requests"] // (num_callers * BLOCK))
        measured: dict[str, list[float]] = {"gateway": [], "triton": []}
        for _ in range(blocks):
            measured["gateway"] += await _block([caller.ask for caller in callers[:num_callers]])
            measured["triton"] += await _block([ask_triton] * num_callers)
        for target, values in measured.items():
            seconds[target][str(num_callers)] = values
    await triton.close()
    return seconds


async def _block(asks: list[Ask]) -> list[float]:
    async def call(ask: Ask) -> list[float]:
        seconds = []
        for _ in range(BLOCK):
            started = time.perf_counter()
            await ask()
            seconds.append(time.perf_counter() - started)
        return seconds

    return [value for values in await asyncio.gather(*(call(ask) for ask in asks)) for value in values]


def _http_request(plan: dict[str, Any], user: str) -> bytes:
    body = json.dumps({"user_id": user, "k": plan["k"]}).encode()
    head = (
        f"POST /v1/recommendations HTTP/1.1\r\nHost: gateway\r\nX-API-Key: {plan['key']}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


if __name__ == "__main__":
    print(json.dumps(uvloop.run(_measure(json.load(sys.stdin)))))
