"""Drift: what is flagged, what chance alone explains, and what a person reads of it."""

from __future__ import annotations

import numpy as np
import pytest

from leanrec.config import RetrainingSettings
from leanrec.evaluation.drift import (
    category_signal,
    chance_index,
    click_through_signal,
    number_signal,
    stability_index,
    unknown_signal,
)
from leanrec.evaluation.online import NO_RATE, rate_of

DRAW = np.random.default_rng(3)
SETTINGS = RetrainingSettings()


@pytest.mark.parametrize(
    ("reference", "new", "low", "high"),
    [
        ([50, 50], [50, 50], 0.0, 0.0),
        ([500, 500], [5, 5], 0.0, 1e-9),  # the same shares
        ([500, 500], [700, 300], 0.16, 0.18),  # 0.2 ln 1.4 - 0.2 ln 0.6 = 0.1695
        ([100, 0], [0, 100], 5.0, 20.0),  # an empty bin counts, and stays finite
        ([10, 10], [0, 0], 0.0, 0.0),
    ],
)
def test_the_index_of_two_histograms(reference, new, low, high):
    assert low <= stability_index(reference, new) <= high
    assert stability_index(reference, new) == pytest.approx(stability_index(new, reference))


@pytest.mark.parametrize("num_new", [30, 300, 5000])
def test_samples_of_one_population_stay_below_chance_about_95_times_in_100(num_new):
    below = 0
    for _ in range(200):
        reference, new = (np.bincount(DRAW.integers(10, size=n), minlength=10) for n in (5000, num_new))
        below += stability_index(reference, new) <= chance_index(10, 5000, num_new)
    assert 0.88 <= below / 200 <= 1.0


@pytest.mark.parametrize(
    ("new", "drifted"),
    [
        (DRAW.normal(size=2000), False),
        (DRAW.normal(size=20), False),  # few events raise no alarm
        (DRAW.normal(loc=1.5, size=2000), True),
        (np.full(2000, np.nan), True),  # what was known is known no more
        (np.zeros(0), False),
    ],
)
def test_a_number_drifts(new, drifted):
    assert number_signal("x", DRAW.normal(size=5000), new, bound=0.25).drifted is drifted


@pytest.mark.parametrize(
    ("new", "drifted"),
    [
        (["a"] * 300 + ["b"] * 700, False),
        (["a"] * 900 + ["b"] * 100, True),
        (["never seen"] * 1000, True),
        (["b"] * 3, False),
    ],
)
def test_a_category_drifts(new, drifted):
    assert category_signal("c", ["a"] * 300 + ["b"] * 700, new, bound=0.25).drifted is drifted


def test_many_events_of_few_users_raise_no_alarm():
    reference, new = ["a"] * 500 + ["b"] * 500, ["a"] * 80 + ["b"] * 20
    assert category_signal("c", reference, new, bound=0.25).drifted
    assert not category_signal("c", reference, new, bound=0.25, num_users=(200, 3)).drifted


def test_indices_beyond_the_release_are_unknown_to_it():
    signal = unknown_signal("unknown items", [1, 2, 9, 10, 11], 10, bound=0.3)
    assert signal.value == pytest.approx(0.4) and signal.drifted
    assert not unknown_signal("unknown items", [], 10, bound=0.3).drifted


def clicks(rate: float, users: int, shown: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """So many users who click that share of what they are shown, more or less."""
    return np.random.default_rng(5).binomial(shown, rate, users), np.full(users, shown)


@pytest.mark.parametrize(
    ("before", "now", "drifted"),
    [
        (clicks(0.2, 500), clicks(0.2, 500), False),
        (clicks(0.2, 500), clicks(0.1, 500), True),
        (clicks(0.2, 500), clicks(0.1, 2), False),  # two users prove nothing
        (clicks(0.2, 500), clicks(0.4, 500), False),  # a gain is no loss
    ],
)
def test_a_loss_of_click_through_drifts(before, now, drifted):
    assert click_through_signal(rate_of(*before), rate_of(*now), SETTINGS).drifted is drifted


def test_without_impressions_there_is_no_click_through_to_lose():
    some = rate_of(*clicks(0.2, 50))
    assert not click_through_signal(NO_RATE, some, SETTINGS).drifted
    assert not click_through_signal(some, NO_RATE, SETTINGS).drifted
