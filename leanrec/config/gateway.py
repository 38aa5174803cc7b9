"""The HTTP gateway: who may ask, how long an answer may take, what is kept in memory."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leanrec.config.section import Section


class GatewaySettings(Section):
    """The gateway's process."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8080, ge=0, le=65535)
    """HTTP port; 0 takes a free one."""
    triton: tuple[str, ...] = ()
    """gRPC addresses (host:port) of the Triton replicas; none: the one of the section `serving`. A name
    stands for every address that it resolves to, as that of a headless Service does for its pods."""
    resolve_s: float = Field(default=5, gt=0)
    """Seconds between two looks at what the names of `triton` resolve to."""
    keys: str = ".leanrec/gateway.keys"
    """File of API keys, a line `name:sha256-hex` each; LEANREC_GATEWAY_KEYS names another."""
    event_log: str | None = None
    """Folder of the event log; none: `events` beside the feature store's folder."""
    requests_per_s: float = Field(default=2000, gt=0)
    """Requests a second that one API key may send, on average."""
    burst: int = Field(default=500, ge=1)
    """Requests of one API key that may come at once, above that average."""
    max_in_flight: int = Field(default=128, ge=1)
    """Requests worked on at a time; more are told to come again."""
    max_body_bytes: int = Field(default=262_144, ge=1024)
    """Largest request body, in bytes."""
    body_timeout_s: float = Field(default=10, gt=0)
    """Seconds that a request's body may take to arrive; meanwhile it counts among those worked on."""
    deadline_ms: float = Field(default=250, gt=0)
    """Milliseconds that Triton may take for one request, whatever it is asked in turn: hedged, of a candidate
    and then of the stable release (half of it each), of the recommender and then of the ranker."""
    hedge_after_ms: float = Field(default=50, gt=0)
    """Milliseconds without an answer after which Triton (the next replica) is asked a second time."""
    store_deadline_ms: float = Field(default=100, gt=0)
    """Milliseconds that the online store may take for one user row."""
    store_pause_ms: float = Field(default=500, ge=0)
    """Milliseconds for which the online store is left alone after it failed."""
    store_threads: int = Field(default=4, ge=1)
    """Threads that read the online store."""
    user_cache_size: int = Field(default=20_000, ge=1)
    """User rows kept in memory."""
    user_cache_ttl_s: float = Field(default=30, ge=0)
    """Seconds for which a kept user row is as good as new; later it serves only where the store fails."""
    shadow_queue: int = Field(default=64, ge=1)
    """Requests that may wait to be replayed at the candidate; more are dropped."""
    follow_ms: float = Field(default=100, gt=0)
    """Milliseconds between two looks at release.json."""
    drain_s: float = Field(default=10, ge=0)
    """Seconds that requests in flight get after SIGTERM."""
    log_level: Literal["info", "warning", "error"] = "warning"
    """What the access log holds: every request, those degraded or refused, or faults alone."""
