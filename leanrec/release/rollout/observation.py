"""Read the gateways' /metrics, and count what each version answered since one began to look."""

from __future__ import annotations

import http.client
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from leanrec.errors import ServingError
from leanrec.release.rollout.traffic import Answers, Traffic
from leanrec.triton.replicas import addresses_of

TIMEOUT_S = 5.0
ROUTE = "/v1/recommendations"
RANK_ROUTE = "/v1/rank"
"""The routes whose answers are judged."""

NO_ANSWER = ("dropped", "degraded", "unknown")
"""Outcomes that say nothing of the version."""

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""(name, sorted labels) -> value."""

BUCKETS = {
    "leanrec_request_seconds_bucket": "seconds",
    "leanrec_score_bucket": "scores",
    "leanrec_shadow_overlap_bucket": "overlaps",
}


class GatewayMetrics:
    """Counters of every gateway replica, as they grew since the first look.

    An http URL stands for every address that its host has, as that of a headless Service: behind a Service
    with one address each look would meet another replica's counters. A replica that restarted begins again at
    0: what it counts then has grown by that. One that does not answer is left out until it does.
    """

    def __init__(self, urls: Iterable[str], resolve: Callable[[str], list[str]] = addresses_of) -> None:
        """`resolve`: host:port -> every host:port behind it; an OSError when nobody knows the name."""
        self._urls = [_checked(url.rstrip("/")) for url in urls]
        self._resolve = resolve
        self._last: dict[str, Samples] = {}
        self._grown: Samples = defaultdict(float)
        self.silent: list[str] = []
        """Replicas that did not answer the last look, and names that nobody knew."""
        self.answered: list[str] = []
        """Replicas that did."""

    def look(self) -> dict[int, Traffic]:
        """Version -> what it answered since the first look."""
        self.silent, self.answered = [], []
        for url in self._urls:
            try:
                replicas = _replicas(url, self._resolve)
            except OSError:
                self.silent.append(url)
                continue
            for replica in replicas:
                self._look_at(replica)
        return traffic_of(self._grown)

    def start_over(self) -> None:
        """Count from the last look on."""
        self._grown.clear()

    def require_one(self) -> None:
        """A ServingError when no replica answers."""
        self.look()
        if not self.answered:
            raise ServingError(
                f"no gateway answers at {', '.join(self.silent)}, so nothing would watch the candidate;"
                " start one with `leanrec gateway`, or name it with --gateway"
            )

    def _look_at(self, replica: str) -> None:
        try:
            self._add(replica, _scrape(replica))
        except (OSError, http.client.HTTPException, ValueError):
            self.silent.append(replica)
        else:
            self.answered.append(replica)

    def _add(self, url: str, samples: Samples) -> None:
        before = self._last.get(url)
        self._last[url] = samples
        if before is None:
            return
        for key, value in samples.items():
            last = before.get(key, 0.0)
            self._grown[key] += value - last if value >= last else value


def traffic_of(samples: Samples) -> dict[int, Traffic]:
    """Version -> its traffic, from samples that count one span of time.

    Requests replayed to a candidate count as its requests: their errors and empty answers are its own.
    Degraded answers and those to users of whom nothing is known are left out, and the time they took: they
    are the gateway's, given where no version or no store answered, or none was asked. From a stale row it is
    the version that answers, so those count.
    """
    counts: dict[tuple[int, str], Counter[str]] = defaultdict(Counter)
    histograms: dict[tuple[int, str], dict[str, Counter[float]]] = defaultdict(lambda: defaultdict(Counter))
    for (name, pairs), value in samples.items():
        labels = dict(pairs)
        release = labels.get("release", "")
        route = labels.get("route", ROUTE)
        of_others = route not in (ROUTE, RANK_ROUTE) or labels.get("outcome") in NO_ANSWER
        if of_others or not release.isdecimal():
            continue
        key = int(release), route
        if name in BUCKETS:
            histograms[key][BUCKETS[name]][float(labels["le"])] += round(value)
        else:
            counts[key] += _counts(name, labels, round(value))

    def figures(version: int, route: str) -> dict[str, Any]:
        buckets = {name: _apart(cumulative) for name, cumulative in histograms[version, route].items()}
        return {**counts[version, route], **buckets}

    return {
        version: Traffic(**figures(version, ROUTE), rank=Answers(**figures(version, RANK_ROUTE)))
        for version in {version for version, _ in counts.keys() | histograms.keys()}
    }


def _counts(name: str, labels: dict[str, str], value: int) -> Counter[str]:
    if name in ("leanrec_requests_total", "leanrec_shadow_total"):
        kind = {"error": "errors", "empty": "empty"}.get(labels["outcome"])
        return Counter({"requests": value, **({kind: value} if kind else {})})
    if name == "leanrec_feedback_total" and labels["type"] in ("impression", "click"):
        return Counter({f"{labels['type']}s": value})
    return Counter()


def _apart(cumulative: Counter[float]) -> Counter[float]:
    """Prometheus' buckets hold all that is below their bound; these hold what no lower one does."""
    apart: Counter[float] = Counter()
    below = 0
    for bound, count in sorted(cumulative.items()):
        apart[bound] = count - below
        below = count
    return +apart


def _checked(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ServingError(f"gateway {url!r} is not a URL; name it as http://host:port")
    return url


def _replicas(url: str, resolve: Callable[[str], list[str]]) -> list[str]:
    """The URL of every replica behind `url`; a certificate is for a name, so an https URL stays as it is."""
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        return [url]
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return [parts._replace(netloc=address).geturl() for address in resolve(f"{host}:{parts.port or 80}")]


def _scrape(url: str) -> Samples:
    with urllib.request.urlopen(f"{url}/metrics", timeout=TIMEOUT_S) as answer:  # noqa: S310
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
