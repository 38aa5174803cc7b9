"""Whether a candidate keeps its bounds: pure functions of what both versions answered in the same time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from leanrec.config.rollout import RolloutSettings
from leanrec.evaluation.wilson import wilson_interval
from leanrec.release.rollout.observation import RANK_ROUTE
from leanrec.release.rollout.traffic import Answers, Buckets, Traffic, quantile

CONFIDENT_Z = 2.326
"""One-sided 99 % of the normal distribution."""
MIN_MISSES = 3
"""Failed, empty or slow answers without which nothing is beyond doubt.

One or two are no ground for an interval that rests on the normal distribution. A candidate that is as good as
the stable version has them by chance early in some stages of a hundred, for it is looked at again and again.
"""
NUM_SCORE_BINS = 10
CHI_SQUARED_9 = 21.666
"""99 % quantile of the chi-squared distribution with `NUM_SCORE_BINS` - 1 degrees of freedom."""


@dataclass(frozen=True, kw_only=True)
class Missed:
    """A bound that the candidate does not keep."""

    figure: str
    value: float
    bound: float

    def __str__(self) -> str:
        return f"{self.figure} is {self.value:.4g}, bound {self.bound:.4g}"


def missed_for_sure(settings: RolloutSettings, stable: Traffic, candidate: Traffic) -> Missed | None:
    """The first bound that is missed beyond doubt, however few requests there were; else None.

    Each route is held against the same route of the stable version, so that no candidate hides behind the one
    that is called more. A share counts as missed when even the lower end of its 99 % Wilson interval is above
    the upper end of the stable version's by more than is allowed; latency when that of the requests slower
    than the bound, for the slowest p99 that the stable version may have, is above one in a hundred; neither
    with fewer than `MIN_MISSES`; clicks when the sequential test decides.
    """
    for route, before, now in _routes(stable, candidate):
        for figure, share, base, allowed in _shares(settings, before, now):
            if is_more_for_sure(base, before.requests, share, now.requests, allowed=allowed):
                return Missed(figure=route + figure, value=share - _number(base), bound=allowed)
        if is_slow_for_sure(before.seconds, now.seconds, max_ratio=settings.max_p99_ratio):
            return _slow(settings, route, before, now)
    if clicks_are_lost(
        stable,
        candidate,
        effect=settings.click_effect,
        alpha=settings.alpha,
        design_effect=settings.click_design_effect,
    ):
        return Missed(figure="click-through rate", value=candidate.click_rate, bound=stable.click_rate)
    return None


def missed_at_the_end(
    settings: RolloutSettings, stable: Traffic, candidate: Traffic, *, same_users: bool
) -> Missed | None:
    """The first bound that is missed at the end of a stage, when there were requests enough; else None.

    Ask when `num_judged` is large enough. Latency is judged of users' requests, and scores where both
    versions answered the same users: those of a canary are others, and may be few. /v1/rank is judged so
    where both versions answered `min_requests` of it too; of fewer, only what is beyond doubt counts.
    """
    for route, before, now in _routes(stable, candidate):
        few = min(before.seconds.total(), now.seconds.total()) < settings.min_requests
        if few and now is candidate.rank:
            continue
        for figure, share, base, allowed in _shares(settings, before, now):
            if share - _number(base) > allowed:
                return Missed(figure=route + figure, value=share - _number(base), bound=allowed)
        slow = _slow(settings, route, before, now)
        if slow.value > slow.bound:
            return slow
    drift = score_psi(stable.scores, candidate.scores)
    allowed = settings.max_score_psi + psi_noise(stable.scores.total(), candidate.scores.total())
    if same_users and drift > allowed:
        return Missed(figure="drift of scores (PSI)", value=drift, bound=allowed)
    if candidate.mean_overlap < settings.min_shadow_overlap:
        return Missed(
            figure="overlap of ten items with the stable version",
            value=candidate.mean_overlap,
            bound=settings.min_shadow_overlap,
        )
    return missed_for_sure(settings, stable, candidate)


def num_judged(candidate: Traffic, *, same_users: bool) -> int:
    """Recommendations of the candidate of which everything is known that its stage is judged by.

    What fails or is empty has no score and no latency to judge; a stage that knows too little does not end.
    """
    if same_users:
        return min(candidate.requests, candidate.scores.total(), candidate.overlaps.total())
    return min(candidate.requests, candidate.seconds.total())


def wilson_lower(share: float, total: float, z: float = CONFIDENT_Z) -> float:
    """The lower end of the Wilson interval of a share seen in `total` trials."""
    return wilson_interval(share, total, z)[0]


def is_more_for_sure(
    stable: float, num_stable: float, candidate: float, num_candidate: float, *, allowed: float
) -> bool:
    """Whether the candidate's share is more than `allowed` above the stable one's, by 99 % intervals of both.

    A stable version without requests counts as one that never failed: it lends no excuse.
    """
    if not num_candidate or round(candidate * num_candidate) < MIN_MISSES:
        return False
    most = wilson_interval(stable, num_stable, CONFIDENT_Z)[1] if num_stable else 0.0
    return wilson_lower(candidate, num_candidate) > most + allowed


def is_slow_for_sure(stable: Buckets, candidate: Buckets, *, max_ratio: float) -> bool:
    """Whether the candidate's p99 is beyond `max_ratio` times the stable one's, by 99 % intervals of both.

    An observation counts as slow when all of its bucket is. Without observations nothing is sure.
    """
    if not stable.total() or not candidate.total():
        return False
    slowest = wilson_interval(0.99, stable.total(), CONFIDENT_Z)[1]
    limit = max_ratio * quantile(stable, slowest)
    bounds = sorted(stable.keys() | candidate.keys())
    slow = sum(candidate[bound] for lower, bound in itertools.pairwise([0.0, *bounds]) if lower >= limit > 0)
    return slow >= MIN_MISSES and wilson_lower(slow / candidate.total(), candidate.total()) > 0.01


def score_psi(stable: Buckets, candidate: Buckets) -> float:
    """Population stability index of two histograms over the same buckets; NaN when one is empty.

    The buckets are put together into ten that hold about as many of the stable version's scores each.
    PSI = sum of (p - q) ln(p / q); empty shares count as half an observation.
    """
    if not stable.total() or not candidate.total():
        return math.nan
    bins = _bins(stable, candidate)
    psi = 0.0
    for expected, seen in bins:
        p = max(expected, 0.5) / stable.total()
        q = max(seen, 0.5) / candidate.total()
        psi += (q - p) * math.log(q / p)
    return psi


def psi_noise(num_stable: int, num_candidate: int) -> float:
    """What the index may reach by chance alone, in 99 of 100 cases, for two samples of one distribution.

    It is then (1/n + 1/m) times a chi-squared variable with (bins - 1) degrees of freedom. Source: Yurdakul
    and Naranjo, "Statistical properties of the population stability index", 2020.
    """
    if not num_stable or not num_candidate:
        return 0.0
    return CHI_SQUARED_9 * (1 / num_stable + 1 / num_candidate)


def clicks_are_lost(
    stable: Traffic, candidate: Traffic, *, effect: float, alpha: float, design_effect: float
) -> bool:
    """Whether the candidate's click-through rate is lower, decided so that one may look at any time.

    The mixture sequential probability ratio test with a normal mixture of standard deviation `effect`:
    it wrongly decides with a chance of at most `alpha` in a stage, however often it is asked. Users differ in
    how much they click, and a user's impressions are not independent, so the variance is `design_effect`
    times that of as many independent ones. Clicks beyond one an impression say the same again.
    Source: Johari, Koomen, Pekelis, Walsh, "Peeking at A/B tests", KDD 2017.
    """
    if not stable.impressions or not candidate.impressions:
        return False
    clicks = [min(traffic.clicks, traffic.impressions) for traffic in (stable, candidate)]
    difference = clicks[1] / candidate.impressions - clicks[0] / stable.impressions
    pooled = sum(clicks) / (stable.impressions + candidate.impressions)
    variance = design_effect * pooled * (1 - pooled) * (1 / stable.impressions + 1 / candidate.impressions)
    if difference >= 0 or variance <= 0:
        return False
    mixed = variance + effect**2
    log_ratio = 0.5 * math.log(variance / mixed) + difference**2 * effect**2 / (2 * variance * mixed)
    return log_ratio >= -math.log(alpha)


def _routes(stable: Traffic, candidate: Traffic) -> Iterator[tuple[str, Answers, Answers]]:
    """What the figures of a route begin with, and what both versions answered there."""
    yield "", stable, candidate
    yield f"{RANK_ROUTE}: ", stable.rank, candidate.rank


def _slow(settings: RolloutSettings, route: str, stable: Answers, candidate: Answers) -> Missed:
    """The ratio of the 99th percentiles, NaN without requests of both."""
    ratio = quantile(candidate.seconds, 0.99) / (quantile(stable.seconds, 0.99) or math.nan)
    return Missed(
        figure=f"{route}p99 latency over the stable version's", value=ratio, bound=settings.max_p99_ratio
    )


def _shares(
    settings: RolloutSettings, stable: Answers, candidate: Answers
) -> Iterator[tuple[str, float, float, float]]:
    """Figure, the candidate's share, the stable version's, and how much larger the first may be."""
    yield (
        "share of failed requests above the stable version's",
        candidate.error_rate,
        stable.error_rate,
        settings.max_error_rate_increase,
    )
    yield (
        "share of empty answers above the stable version's",
        candidate.empty_rate,
        stable.empty_rate,
        settings.max_empty_rate_increase,
    )


def _bins(stable: Buckets, candidate: Buckets) -> list[tuple[float, float]]:
    full = stable.total() / NUM_SCORE_BINS
    bins, expected, seen = [], 0.0, 0.0
    for bound in sorted(stable.keys() | candidate.keys()):
        expected, seen = expected + stable[bound], seen + candidate[bound]
        if expected >= full:
            bins.append((expected, seen))
            expected, seen = 0.0, 0.0
    if not (expected or seen):
        return bins
    return [*bins, (expected, seen)]


def _number(share: float) -> float:
    """The stable version's share; 0 where it answered nothing meanwhile."""
    return 0.0 if math.isnan(share) else share
