"""What one version answered in a span of time, as values."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

Buckets = Counter[float]
"""Upper bound of a histogram's bucket -> observations in it and in no lower one."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Counts of one version on one route, of all replicas together."""

    requests: int = 0
    """Requests that it was asked to answer."""
    errors: int = 0
    empty: int = 0
    """Answers without an item."""
    seconds: Buckets = field(default_factory=Counter)

    @property
    def error_rate(self) -> float:
        """Share of requests that failed; NaN without any."""
        return self.errors / self.requests if self.requests else math.nan

    @property
    def empty_rate(self) -> float:
        """Share of requests answered without an item; NaN without any."""
        return self.empty / self.requests if self.requests else math.nan


@dataclass(frozen=True, kw_only=True)
class Traffic(Answers):
    """What one version recommended, what became of it, and what it answered on the other route."""

    rank: Answers = field(default_factory=Answers)
    """Its answers of /v1/rank; none where nobody calls it."""
    scores: Buckets = field(default_factory=Counter)
    """Scores of the first items."""
    overlaps: Buckets = field(default_factory=Counter)
    """Shares of ten items that the stable version names too, of requests replayed."""
    impressions: int = 0
    clicks: int = 0

    @property
    def click_rate(self) -> float:
        """Clicks an impression; NaN without any."""
        return self.clicks / self.impressions if self.impressions else math.nan

    @property
    def mean_overlap(self) -> float:
        """Mean of the overlaps, each taken at its bucket's upper bound; NaN without any."""
        total = self.overlaps.total()
        return sum(bound * count for bound, count in self.overlaps.items()) / total if total else math.nan


def quantile(buckets: Buckets, share: float) -> float:
    """The value below which `share` of the observations lie, as Prometheus' histogram_quantile.

    Observations are taken to lie evenly within a bucket; one in the last, unbounded bucket counts as that
    bucket's lower bound. NaN without observations.
    """
    total = buckets.total()
    if not total:
        return math.nan
    wanted, lower = share * total, 0.0
    for bound, count in sorted(buckets.items()):
        if count and wanted <= count:
            return lower if math.isinf(bound) else lower + (bound - lower) * wanted / count
        wanted -= count
        lower = bound if not math.isinf(bound) else lower
    return lower
