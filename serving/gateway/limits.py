"""How many requests may come: a token bucket for each API key."""

from __future__ import annotations

import time
from collections.abc import Callable


class RateLimit:
    """`per_s` requests a second for each name on average, `burst` at once; needs no lock on one loop."""

    def __init__(self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._burst = float(burst)
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, name: str) -> float:
        """Take a token of `name`: 0 when there was one, else the seconds until there will be."""
        now = self._clock()
        tokens, since = self._buckets.get(name, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._per_s)
        if tokens < 1:
            self._buckets[name] = (tokens, now)
            return (1 - tokens) / self._per_s
        self._buckets[name] = (tokens - 1, now)
        return 0.0
