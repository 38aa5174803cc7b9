"""What sends a candidate back: tables of cases, and the promise of the sequential test."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leanrec.config import RolloutSettings
from leanrec.release.rollout.bounds import (
    clicks_are_lost,
    is_more_for_sure,
    missed_at_the_end,
    missed_for_sure,
    psi_noise,
    score_psi,
    wilson_lower,
)
from leanrec.release.rollout.traffic import Answers, Traffic, quantile

SETTINGS = RolloutSettings()
EVEN = Counter({10**-exponent: 100 for exponent in range(10)})
STABLE = Traffic(requests=9000, errors=9, empty=9, seconds=Counter({0.002: 950, 0.004: 50}), scores=EVEN)


def candidate(**figures: object) -> Traffic:
    return Traffic(
        **{
            "requests": 1000,
            "errors": 1,
            "empty": 1,
            "seconds": Counter({0.002: 950, 0.004: 50}),
            "scores": EVEN,
            **figures,
        }
    )


@pytest.mark.parametrize(
    ("figures", "at_once", "at_the_end"),
    [
        ({}, None, None),
        ({"errors": 6}, None, None),
        ({"errors": 7}, None, "failed requests"),
        ({"errors": 40}, "failed requests", "failed requests"),
        ({"requests": 5, "errors": 5}, "failed requests", "failed requests"),
        # One or two may be chance, whatever share of a few requests they are.
        ({"requests": 1, "errors": 1, "empty": 0}, None, "failed requests"),
        ({"requests": 25, "errors": 1, "empty": 0}, None, "failed requests"),
        ({"requests": 2, "errors": 2, "empty": 0}, None, "failed requests"),
        ({"requests": 3, "errors": 3, "empty": 0}, "failed requests", "failed requests"),
        ({"requests": 25, "errors": 3, "empty": 0}, "failed requests", "failed requests"),
        ({"requests": 9, "errors": 0, "empty": 2}, None, "empty answers"),
        ({"requests": 9, "errors": 0, "empty": 3}, "empty answers", "empty answers"),
        ({"empty": 7}, None, "empty answers"),
        ({"empty": 1000}, "empty answers", "empty answers"),
        ({"seconds": Counter({0.002: 950, 0.008: 50})}, None, "p99 latency"),
        ({"seconds": Counter({0.002: 950, 0.016: 2, 0.032: 13})}, None, "p99 latency"),
        ({"seconds": Counter({0.002: 900, 0.016: 50, 0.032: 50})}, "p99 latency", "p99 latency"),
        ({"seconds": Counter({0.002: 1, 0.016: 1, 0.032: 4})}, "p99 latency", "p99 latency"),
        ({"seconds": Counter({0.002: 9, 0.016: 1, 0.032: 1})}, None, "p99 latency"),
        ({"seconds": Counter({0.002: 9, 0.016: 1, 0.032: 2})}, None, "p99 latency"),
        ({"seconds": Counter({0.002: 9, 0.016: 1, 0.032: 3})}, "p99 latency", "p99 latency"),
        ({"seconds": Counter()}, None, None),
        ({"scores": Counter({1.0: 1000})}, None, "drift of scores"),
        ({"scores": Counter()}, None, None),
        ({"overlaps": Counter({0.1: 90, 1.0: 10})}, None, "overlap of ten items"),
        ({"overlaps": Counter({0.5: 100})}, None, None),
    ],
)
def test_a_bound_is_missed_at_once_when_beyond_doubt_and_else_at_the_end(
    figures: dict, at_once: str | None, at_the_end: str | None
) -> None:
    for found, expected in (
        (missed_for_sure(SETTINGS, STABLE, candidate(**figures)), at_once),
        (missed_at_the_end(SETTINGS, STABLE, candidate(**figures), same_users=True), at_the_end),
    ):
        assert (expected is None) == (found is None)
        assert expected is None or expected in str(found)


RANKED = Answers(requests=9000, errors=9, seconds=Counter({0.02: 950, 0.04: 50}))


@pytest.mark.parametrize(
    ("ranked", "at_once", "at_the_end"),
    [
        (Answers(), None, None),
        (Answers(requests=1000, errors=1, seconds=RANKED.seconds), None, None),
        (Answers(requests=1000, errors=7, seconds=RANKED.seconds), None, "failed requests"),
        (Answers(requests=1000, errors=40, seconds=RANKED.seconds), "failed requests", "failed requests"),
        (Answers(requests=2, errors=2), None, None),
        (Answers(requests=3, errors=3), "failed requests", "failed requests"),
        (Answers(requests=25, errors=1, seconds=Counter({0.02: 24})), None, None),
        (Answers(requests=10, seconds=Counter({0.02: 8, 0.16: 1, 0.32: 1})), None, None),
        (Answers(requests=10, seconds=Counter({0.02: 6, 0.16: 1, 0.32: 3})), "p99 latency", "p99 latency"),
        (Answers(requests=1000, seconds=Counter({0.02: 950, 0.08: 50})), None, "p99 latency"),
        (
            Answers(requests=1000, seconds=Counter({0.02: 900, 0.16: 50, 0.32: 50})),
            "p99 latency",
            "p99 latency",
        ),
        # Of few calls only what is beyond doubt counts.
        (Answers(requests=100, errors=1, seconds=Counter({0.02: 99})), None, None),
        (Answers(requests=100, seconds=Counter({0.02: 95, 0.08: 5})), None, None),
    ],
)
def test_a_ranker_is_held_against_the_stable_one_alone(
    ranked: Answers, at_once: str | None, at_the_end: str | None
) -> None:
    stable, ranking = replace(STABLE, rank=RANKED), candidate(rank=ranked)
    for found, expected in (
        (missed_for_sure(SETTINGS, stable, ranking), at_once),
        (missed_at_the_end(SETTINGS, stable, ranking, same_users=True), at_the_end),
    ):
        assert (expected is None) == (found is None)
        if expected is not None:
            assert str(found).startswith("/v1/rank: ")
            assert expected in str(found)


def test_a_ranker_that_fails_is_found_among_ever_so_many_recommendations() -> None:
    failing = candidate(requests=1_000_000, rank=Answers(requests=50, errors=50))
    assert "/v1/rank" in str(missed_for_sure(SETTINGS, STABLE, failing))


def test_a_stable_version_without_traffic_lends_the_candidate_no_excuse() -> None:
    assert missed_for_sure(SETTINGS, Traffic(), candidate(errors=100)) is not None
    assert missed_at_the_end(SETTINGS, Traffic(), candidate(), same_users=True) is None


@pytest.mark.parametrize(
    ("stable", "is_sure"),
    [(Answers(), True), (Answers(requests=5000), True), (Answers(requests=40, errors=1), False)],
)
def test_a_few_requests_of_the_stable_version_prove_no_difference(stable: Answers, is_sure: bool) -> None:
    figures = candidate(requests=100, errors=6, empty=0)
    stable = Traffic(requests=stable.requests, errors=stable.errors)
    assert (missed_for_sure(SETTINGS, stable, figures) is not None) == is_sure


@pytest.mark.parametrize("rate", [0.001, 0.002, 0.004])
def test_looking_at_every_request_sends_back_few_candidates_that_fail_as_seldom_as_the_stable_version(
    rate: float,
) -> None:
    stable = Answers(requests=5000, errors=round(5000 * rate))

    def is_sent_back(seed: int) -> bool:
        failed = np.flatnonzero(np.random.default_rng(seed).random(1000) < rate)  # surest just at a failure
        return any(
            is_more_for_sure(stable.error_rate, 5000, errors / (at + 1), at + 1, allowed=0.005)
            for errors, at in enumerate(failed, 1)
        )

    assert sum(map(is_sent_back, range(2000))) <= 20


def test_a_missed_bound_names_the_figure_the_value_and_the_bound() -> None:
    missed = missed_at_the_end(SETTINGS, STABLE, candidate(errors=11), same_users=True)
    assert str(missed) == "share of failed requests above the stable version's is 0.01, bound 0.005"


def test_the_wilson_interval_agrees_with_published_figures() -> None:
    # 10 of 100 at 95 % two-sided: 0.0552 to 0.1744 (Newcombe, "Two-sided confidence intervals", 1998).
    assert wilson_lower(0.1, 100, z=1.96) == pytest.approx(0.0552, abs=1e-4)
    assert wilson_lower(0.0, 10) == pytest.approx(0, abs=1e-12)


@given(st.lists(st.integers(0, 50), min_size=3, max_size=12), st.integers(1, 5))
def test_the_index_is_nothing_for_equal_shapes_and_never_negative(counts: list[int], times: int) -> None:
    histogram = Counter({float(n): count for n, count in enumerate(counts)})
    grown = Counter({bound: times * count for bound, count in histogram.items()})
    psi = score_psi(histogram, grown)
    if not histogram.total():
        assert math.isnan(psi)
    else:
        assert psi >= -1e-12
        # Half an observation stands for none, which is another share of ten than of fifty.
        assert psi < 0.35


def test_other_users_may_have_other_scores() -> None:
    shifted = candidate(scores=Counter({1.0: 1000}))
    assert missed_at_the_end(SETTINGS, STABLE, shifted, same_users=False) is None


def test_chance_alone_is_no_drift() -> None:
    draws = np.random.default_rng(0)
    beyond = 0
    for _ in range(400):
        samples = [Counter(draws.integers(0, 10, size).astype(float).tolist()) for size in (300, 60)]
        beyond += score_psi(*samples) > psi_noise(300, 60)
    assert beyond <= 20


def test_a_shift_of_scores_is_drift() -> None:
    later = Counter({bound * 100: count for bound, count in EVEN.items()})
    assert score_psi(EVEN, later) > 0.25


@pytest.mark.parametrize(("share", "expected"), [(0.5, 0.625), (0.95, 1.75), (1.0, 2.0)])
def test_a_quantile_lies_evenly_within_its_bucket(share: float, expected: float) -> None:
    assert quantile(Counter({1.0: 80, 2.0: 20}), share) == pytest.approx(expected)


def test_a_quantile_in_the_unbounded_bucket_is_that_buckets_lower_bound() -> None:
    assert quantile(Counter({1.0: 1, math.inf: 9}), 0.99) == 1.0
    assert math.isnan(quantile(Counter(), 0.99))


def looks(rates: tuple[float, float], seed: int) -> bool:
    """Whether the test ever decides for a loss, looked at every 200 impressions of 20,000."""
    draws = np.random.default_rng(seed)
    clicks = [np.cumsum(draws.random(20_000) < rate) for rate in rates]
    return any(
        clicks_are_lost(
            Traffic(impressions=n, clicks=int(clicks[0][n - 1])),
            Traffic(impressions=n, clicks=int(clicks[1][n - 1])),
            effect=0.02,
            alpha=0.05,
            design_effect=1,
        )
        for n in range(200, 20_001, 200)
    )


def sends_back_alike(seed: int, *, knows_users: bool) -> bool:
    """Whether the test ever decides for a loss between two sides of 200 users who differ, alike on both."""
    draws = np.random.default_rng(seed)
    each = 100
    rates = draws.beta(0.8, 9.2, (2, 200))  # 8 % on the whole; the users' own rates spread by 8 %
    clicked = draws.random((2, each, 200)) < rates[:, None, :]  # every user once, then every user again
    design_effect = SETTINGS.click_design_effect if knows_users else 1.0
    seen = clicked.reshape(2, -1).cumsum(axis=1)
    return any(
        clicks_are_lost(
            Traffic(impressions=n, clicks=int(seen[0, n - 1])),
            Traffic(impressions=n, clicks=int(seen[1, n - 1])),
            effect=0.02,
            alpha=0.05,
            design_effect=design_effect,
        )
        for n in range(400, 20_001, 200)
    )


def test_a_candidate_whose_users_click_less_by_nature_is_not_sent_back() -> None:
    assert sum(sends_back_alike(seed, knows_users=True) for seed in range(100)) <= 8
    assert sum(sends_back_alike(seed, knows_users=False) for seed in range(100)) > 15


def test_clicks_beyond_one_an_impression_say_the_same_again() -> None:
    stable, candidate = Traffic(impressions=9000, clicks=45_000), Traffic(impressions=9000, clicks=90)
    assert clicks_are_lost(stable, candidate, effect=0.02, alpha=0.05, design_effect=20)


def test_looking_again_and_again_does_not_send_back_a_candidate_that_loses_nothing() -> None:
    assert sum(looks((0.1, 0.1), seed) for seed in range(100)) <= 8
    assert sum(looks((0.1, 0.12), seed) for seed in range(50)) == 0


def test_a_loss_of_clicks_is_found() -> None:
    assert sum(looks((0.1, 0.07), seed) for seed in range(50)) >= 48


@pytest.mark.parametrize("pair", [(Traffic(), Traffic(impressions=9)), (Traffic(impressions=9), Traffic())])
def test_without_impressions_nothing_is_decided_on_clicks(pair: tuple[Traffic, Traffic]) -> None:
    assert not clicks_are_lost(*pair, effect=0.02, alpha=0.05, design_effect=1)
