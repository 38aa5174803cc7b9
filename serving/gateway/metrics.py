"""What the gateway counts, for Prometheus and for the controller of a rollout."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, values

# Feast asks, by an environment variable that child processes inherit, for values in files, so that its own
# workers can share them. A gateway counts for itself, in memory, and begins at nought.
values.ValueClass = values.MutexValue

SECONDS = (
    *(0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015),
    *(0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5),
)
SCORES = tuple(round(10 ** (exponent / 8), 8) for exponent in range(-40, 17))
"""Upper bounds from 1e-5 to 100, eight to a decade: the drift of scores is seen on a logarithmic scale."""
PHASES = ("features", "model", "finish")
"""What a recommendation goes through, in this order."""
SHARES = tuple(tenths / 10 for tenths in range(11))


def counted_route(route: str, *, pinned: bool) -> str:
    """The label of `route` in the metrics: who chooses his release himself is no evidence in a rollout."""
    return f"{route}#pinned" if pinned else route


class Metrics:
    """The counters of one gateway, in a registry of its own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "leanrec_requests",
            "Requests answered: ok, empty, stale (by the model, from a row past its time), degraded (popular "
            "items), unknown (most liked items for a user without a row: no model was asked); error: the "
            "release failed, whether or not another one then answered.",
            ("route", "release", "stage", "outcome"),
            registry=registry,
        )
        self.refused = Counter(
            "leanrec_refused", "Requests refused, by HTTP status.", ("route", "status"), registry=registry
        )
        self.seconds = Histogram(
            "leanrec_request_seconds",
            "Seconds from the request's head to the answer's end.",
            ("route", "release", "outcome"),
            buckets=SECONDS,
            registry=registry,
        )
        phase_seconds = Histogram(
            "leanrec_phase_seconds",
            "Seconds of a recommendation: features, model, finish (filters, titles, JSON).",
            ("phase",),
            buckets=SECONDS,
            registry=registry,
        )
        self.phase_seconds = {phase: phase_seconds.labels(phase) for phase in PHASES}
        self.score = Histogram(
            "leanrec_score",
            "Score of the first item that the model gave.",
            ("release",),
            buckets=SCORES,
            registry=registry,
        )
        self.shadow = Counter(
            "leanrec_shadow",
            "Requests replayed at the candidate: ok, empty, error, dropped.",
            ("release", "outcome"),
            registry=registry,
        )
        self.shadow_overlap = Histogram(
            "leanrec_shadow_overlap",
            "Share of the ten items answered that the candidate answers too.",
            ("release",),
            buckets=SHARES,
            registry=registry,
        )
        self.feedback = Counter(
            "leanrec_feedback", "Events acknowledged.", ("release", "type"), registry=registry
        )
        self.repeated_events = Counter(
            "leanrec_feedback_repeated", "Events whose id was taken before.", registry=registry
        )
        self.pushes = Counter(
            "leanrec_feedback_pushes",
            "Ratings on their way to the online rows: ok, failed (tried again), dropped.",
            ("outcome",),
            registry=registry,
        )
        self.user_cache = Counter(
            "leanrec_user_cache",
            "Look-ups of user rows: hit, joined (another's look-up), miss, stale, failed.",
            ("result",),
            registry=registry,
        )

    def text(self) -> bytes:
        """The exposition that Prometheus reads."""
        return generate_latest(self._registry)
