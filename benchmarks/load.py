"""A closed loop of callers in a process of its own: `python -m benchmarks.load < plan.json`.

Each caller keeps one connection and asks again as soon as it has its answer. The gateway and Triton are
asked in turn, a block each, so that the machine's moods meet both alike. What the gateway answers is checked
once its time is taken: an answer that is not the measured release's own ends the benchmark. One JSON object
comes out: seconds of every request, by target and number of callers, and what the gateway's phases took.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from itertools import cycle
from typing import Any

import uvloop

from leanrec.errors import ServingError
from leanrec.triton.async_client import AsyncTritonClient
from serving.gateway.metrics import PHASES

BLOCK = 100
"""Requests of each caller before the other target has its turn."""

Ask = Callable[[], Awaitable[None]]


class HttpCaller(asyncio.Protocol):
    """One keep-alive connection that sends ready-made requests; an answer other than 200 is an error.

    The bodies of the answers gather in `bodies`, to be checked when the clock has stopped.
    """

    def __init__(self, requests: Iterator[bytes]) -> None:
        self.bodies: list[bytes] = []
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
            self.bodies.append(body)
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
    phases: dict[str, dict[str, float]] = {}
    for num_callers in (max(plan["callers"]), *plan["callers"]):  # the first round warms up
        blocks = max(1, plan["num_requests"] // (num_callers * BLOCK))
        measured: dict[str, list[float]] = {"gateway": [], "triton": []}
        before = phase_totals(_metrics(plan["gateway"]))
        for _ in range(blocks):
            measured["gateway"] += await _block([caller.ask for caller in callers[:num_callers]])
            for caller in callers:
                check_answers(caller.bodies, release=plan["version"], k=plan["k"])
                caller.bodies.clear()
            measured["triton"] += await _block([ask_triton] * num_callers)
        phases[str(num_callers)] = mean_phases(before, phase_totals(_metrics(plan["gateway"])))
        for target, values in measured.items():
            seconds[target][str(num_callers)] = values
    await triton.close()
    return {"seconds": seconds, "phases": phases}


def check_answers(bodies: list[bytes], *, release: int, k: int) -> None:
    """Raise ServingError unless each is a whole answer of `release` for a user whose row was found."""
    for body in bodies:
        answer = json.loads(body)
        seen = {name: answer[name] for name in ("release", "known", "degraded")}
        expected = {"release": release, "known": True, "degraded": None}
        if seen != expected or len(answer["items"]) != k:
            raise ServingError(
                f"the gateway answered {seen} with {len(answer['items'])} items, not {expected} with {k}: "
                "such an answer costs another time than the one measured; see why in the gateway's log above"
            )


def phase_totals(metrics: str) -> dict[str, tuple[float, float]]:
    """Seconds and number of each phase so far, out of the text of /metrics; nothing yet is zero."""
    lines = (line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    values = {name: float(value) for name, value in lines if name.startswith("leanrec_phase_seconds_")}
    seconds, count = (
        {phase: values.get(f'leanrec_phase_seconds_{kind}{{phase="{phase}"}}', 0.0) for phase in PHASES}
        for kind in ("sum", "count")
    )
    return {phase: (seconds[phase], count[phase]) for phase in PHASES}


def mean_phases(
    before: dict[str, tuple[float, float]], after: dict[str, tuple[float, float]]
) -> dict[str, float]:
    """Mean milliseconds of each phase between two looks."""
    means = {}
    for phase, (seconds, count) in after.items():
        more = count - before[phase][1]
        means[phase] = round((seconds - before[phase][0]) / more * 1e3, 3) if more else 0.0
    return means


def _metrics(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


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
