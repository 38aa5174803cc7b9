"""A load on a running Triton: callers who each send their next request when the last one is answered.

Closed loop, over gRPC, from threads of this process, which therefore shares the machine with the server. What
is compared under it must be asked in turns (`in_turns`), for a machine's moods last longer than a request.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

Tensors = Mapping[str, np.ndarray]
Ask = Callable[[Tensors], object]
"""Sends one request [1, ...] and returns when it is answered."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Load:
    """What came of a load."""

    milliseconds: np.ndarray
    """Of each request, in the order of the answers."""
    seconds: float
    """From the first request to the last answer."""

    def percentiles(self) -> dict[str, float]:
        """p50, p95 and p99 in milliseconds."""
        return percentiles(self.milliseconds)

    @property
    def requests_per_s(self) -> float:
        """Throughput."""
        return len(self.milliseconds) / self.seconds

    @classmethod
    def of(cls, loads: Sequence[Load]) -> Load:
        """Several loads, one after another, as one."""
        return cls(
            milliseconds=np.concatenate([load.milliseconds for load in loads]),
            seconds=sum(load.seconds for load in loads),
        )


def percentiles(milliseconds: np.ndarray | Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99."""
    return {f"p{q}": float(np.percentile(milliseconds, q)) for q in (50, 95, 99)}


def closed_loop(ask: Ask, requests: Tensors, *, callers: int, num_requests: int, first: int = 0) -> Load:
    """`callers` threads share out `num_requests` requests, the rows of `requests` in turn from `first` on.

    What `ask` raises ends the load and is raised here.
    """
    rows = [{name: values[n : n + 1] for name, values in requests.items()} for n in range(_rows(requests))]
    numbers = itertools.count(first)
    start = threading.Barrier(callers)

    def call() -> list[float]:
        milliseconds = []
        start.wait()
        while (number := next(numbers)) < first + num_requests:
            clock = time.perf_counter()
            ask(rows[number % len(rows)])
            milliseconds.append((time.perf_counter() - clock) * 1e3)
        return milliseconds

    clock = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        parts = [future.result() for future in [pool.submit(call) for _ in range(callers)]]
    return Load(milliseconds=np.concatenate(parts), seconds=time.perf_counter() - clock)


def in_turns(
    asks: Mapping[str, Ask], requests: Tensors, *, callers: int, num_requests: int, turns: int = 4
) -> dict[str, Load]:
    """The same load on each of `asks`, in `turns` parts, each part on all of them before the next one."""
    found: dict[str, list[Load]] = {name: [] for name in asks}
    names = list(asks)
    each = max(callers, num_requests // turns)
    for turn in range(turns):
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            part = closed_loop(asks[name], requests, callers=callers, num_requests=each, first=turn * each)
            found[name].append(part)
    return {name: Load.of(loads) for name, loads in found.items()}


def _rows(requests: Tensors) -> int:
    return len(next(iter(requests.values())))
