"""How the server's configuration is tuned."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leanrec.config.section import Section


class TuningSettings(Section):
    """The load under which configurations are measured, and those that are tried."""

    models: tuple[Literal["recommender", "ranker"], ...] = ("recommender",)
    """Models to tune."""
    callers: int = Field(default=4, ge=1, le=256)
    """Callers at once; each sends its next request when the last one is answered."""
    figure: Literal["p50", "p95", "p99"] = "p95"
    """The latency that is to become small."""
    rounds: int = Field(default=6, ge=2)
    """Turns in which all configurations left are measured; the worse half leaves after each."""
    requests: int = Field(default=240, ge=20)
    """Requests a configuration and round."""
    instances: tuple[int, ...] = ()
    """Processes of a model that are tried; empty: powers of two up to the cores."""
    threads: tuple[int, ...] = ()
    """Threads of a process that are tried; empty: powers of two up to the cores."""
    batch_sizes: tuple[int, ...] = (0, 8)
    """Users a batch that the server is to prefer; 0: whoever waits."""
    queue_delays_us: tuple[int, ...] = (0, 500, 2000)
    """Microseconds that a request may wait for others."""
    margin: float = Field(default=0.05, ge=0, lt=1)
    """A configuration must be better than the present one by this share, or the present one stays."""
