"""Intervals hold the truth, are the same for the same seed, and pair what they compare."""

import numpy as np
import pytest

from leanrec.errors import DataError
from leanrec.evaluation import bootstrap, metrics


def test_the_interval_of_a_mean_is_that_of_the_normal_theory():
    values = np.random.default_rng(1).normal(0.3, 0.1, size=400)
    interval = bootstrap.bootstrap_mean(values)
    half = 1.96 * values.std() / np.sqrt(values.size)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.2 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.2 * half)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values = np.random.default_rng(1).uniform(size=50)
    assert bootstrap.bootstrap_mean(values, seed=3) == bootstrap.bootstrap_mean(values, seed=3)
    assert bootstrap.bootstrap_mean(values, seed=3) != bootstrap.bootstrap_mean(values, seed=4)


def test_a_paired_difference_is_narrower_than_the_users_themselves_vary():
    base = np.random.default_rng(2).uniform(size=200)
    interval = bootstrap.bootstrap_difference(base + 0.01, base)
    assert interval.low == pytest.approx(0.01) and interval.high == pytest.approx(0.01)


def test_auc_with_even_weights_equals_scikit_learns_ties_included():
    generator = np.random.default_rng(5)
    liked = generator.uniform(size=300) < 0.5
    score = np.round(generator.uniform(size=300) + 0.3 * liked, 1)
    interval = bootstrap.bootstrap_auc(liked, score, generator.integers(30, size=300), num_resamples=200)
    assert interval.value == pytest.approx(metrics.auc(liked, score))
    assert interval.low < interval.value < interval.high


def test_auc_difference_of_a_model_with_itself_is_zero():
    generator = np.random.default_rng(5)
    liked, score, user = generator.uniform(size=99) < 0.5, generator.uniform(size=99), np.arange(99) // 3
    same = bootstrap.bootstrap_auc_difference(liked, score, score * 2, user, num_resamples=50)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_different_users_and_nan_are_refused():
    with pytest.raises(DataError, match="same users"):
        bootstrap.bootstrap_difference(np.ones(3), np.ones(4))
    with pytest.raises(DataError, match="not all finite"):
        bootstrap.bootstrap_mean(np.array([1.0, np.nan]))
    with pytest.raises(DataError, match="both liked"):
        bootstrap.bootstrap_auc(np.ones(4, dtype=bool), np.arange(4.0), np.arange(4), num_resamples=5)
