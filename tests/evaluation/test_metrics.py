"""The metrics against brute force and against scikit-learn, and what they refuse."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import calibration
from sklearn import metrics as sklearn_metrics

from leanrec.errors import DataError
from leanrec.evaluation import metrics

NUM_ITEMS = 12


@st.composite
def lists_and_relevant(draw):
    width = draw(st.integers(1, 8))
    users = draw(st.integers(1, 5))
    permutations = st.permutations(range(NUM_ITEMS)).map(lambda items: items[:width])
    lists = np.array([draw(permutations) for _ in range(users)])
    relevant = [
        np.array(sorted(draw(st.sets(st.integers(1, NUM_ITEMS - 1), min_size=1, max_size=6))))
        for _ in range(users)
    ]
    return lists, relevant


def brute_force(items, wanted, k):
    """The four metrics of one user, as the textbook says."""
    hits = [item in wanted and item != 0 for item in list(items)[:k]]
    gain = sum(1 / math.log2(place + 2) for place, hit in enumerate(hits) if hit)
    ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(wanted))))
    first = next((place + 1 for place, hit in enumerate(hits) if hit), None)
    return sum(hits) / len(wanted), gain / ideal, float(any(hits)), 1 / first if first else 0.0


@settings(max_examples=60, deadline=None)
@given(lists_and_relevant(), st.integers(1, 10))
def test_ranking_metrics_equal_the_textbook(case, k):
    lists, relevant = case
    found = metrics.relevance_of(lists, relevant, NUM_ITEMS)
    counts = np.array([len(items) for items in relevant])
    measured = [
        f(found, counts, k) for f in (metrics.recall_at, metrics.ndcg_at, metrics.hit_rate_at, metrics.mrr_at)
    ]
    expected = [
        brute_force(row, set(wanted.tolist()), k) for row, wanted in zip(lists, relevant, strict=True)
    ]
    np.testing.assert_allclose(np.stack(measured, axis=1), np.array(expected))


def test_ndcg_of_a_perfect_list_is_one():
    found = metrics.relevance_of(np.array([[3, 1, 2, 4]]), [np.array([1, 3])], NUM_ITEMS)
    assert metrics.ndcg_at(found, np.array([2]), 4)[0] == pytest.approx(1.0)


def test_a_repeated_item_counts_once():
    found = metrics.relevance_of(np.array([[3, 3, 3]]), [np.array([3])], NUM_ITEMS)
    assert found.tolist() == [[True, False, False]]


def test_an_empty_place_is_never_relevant():
    assert not metrics.relevance_of(np.array([[0, 0]]), [np.array([1])], NUM_ITEMS).any()


def test_coverage_counts_the_catalogue_without_the_unknown_item():
    assert metrics.coverage_at(np.array([[1, 2, 5], [2, 0, 6]]), 2, 5) == pytest.approx(2 / 4)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=2, max_size=40))
def test_auc_is_the_share_of_pairs_in_the_right_order(rows):
    liked = np.array([row[0] for row in rows])
    score = np.array([row[1] / 8 for row in rows])
    if liked.all() or not liked.any():
        with pytest.raises(DataError, match="needs both kinds"):
            metrics.auc(liked, score)
        return
    wins = [(a > b) + 0.5 * (a == b) for a in score[liked] for b in score[~liked]]
    assert metrics.auc(liked, score) == pytest.approx(np.mean(wins))


def test_log_loss_and_rmse_equal_their_definitions():
    liked, probability = np.array([True, False, True]), np.array([0.9, 0.2, 0.5])
    assert metrics.log_loss(liked, probability) == pytest.approx(-np.log([0.9, 0.8, 0.5]).mean())
    assert metrics.rmse(np.array([1.0, 5.0]), np.array([2.0, 3.0])) == pytest.approx(np.sqrt(2.5))


@pytest.fixture
def calibrated_pairs():
    generator = np.random.default_rng(0)
    probability = generator.uniform(size=3000)
    return generator.uniform(size=3000) < probability, probability


def test_a_roc_curve_is_short_goes_from_corner_to_corner_and_holds_the_area(calibrated_pairs):
    liked, score = calibrated_pairs
    curve = metrics.roc_curve(liked, score)
    assert len(curve["fpr"]) == len(curve["tpr"]) == len(curve["threshold"]) <= metrics.NUM_ROC_POINTS
    assert (curve["fpr"][0], curve["tpr"][0], curve["fpr"][-1], curve["tpr"][-1]) == (0, 0, 1, 1)
    assert curve["threshold"] == sorted(curve["threshold"], reverse=True)
    assert curve["threshold"][0] > score.max() and np.isfinite(curve["threshold"]).all()
    assert np.trapezoid(curve["tpr"], curve["fpr"]) == pytest.approx(metrics.auc(liked, score), abs=0.005)
    with pytest.raises(DataError, match="it needs both kinds"):
        metrics.roc_curve(np.ones(3, bool), np.arange(3.0))


def test_calibration_curve_equals_scikit_learns(calibrated_pairs):
    liked, probability = calibrated_pairs
    points = metrics.calibration_curve(liked, probability, 10)
    observed, predicted = calibration.calibration_curve(liked, probability, n_bins=10, strategy="quantile")
    np.testing.assert_allclose([p.observed for p in points], observed, atol=5e-3)
    np.testing.assert_allclose([p.predicted for p in points], predicted, atol=5e-3)
    assert {p.count for p in points} == {300}


def test_calibration_error_is_small_when_calibrated_and_large_when_not(calibrated_pairs):
    liked, probability = calibrated_pairs
    assert metrics.expected_calibration_error(liked, probability) < 0.05
    assert metrics.expected_calibration_error(liked, 1 - probability) > 0.4


def test_calibration_error_of_a_constant_does_not_depend_on_order():
    liked = np.array([True] * 30 + [False] * 70)
    constant = np.full(100, 0.3)
    assert metrics.expected_calibration_error(liked, constant) == pytest.approx(0.0)
    assert metrics.expected_calibration_error(liked[::-1], constant) == pytest.approx(0.0)
    assert len(metrics.calibration_curve(liked, constant)) == 1


@pytest.mark.parametrize("function", [metrics.auc, metrics.log_loss, metrics.expected_calibration_error])
def test_nan_scores_are_refused_with_their_number(function):
    with pytest.raises(DataError, match="1 of 2 values are NaN"):
        function(np.array([True, False]), np.array([np.nan, 0.5]))


@pytest.mark.parametrize("function", [metrics.auc, metrics.log_loss, metrics.rmse])
def test_empty_scores_are_refused(function):
    with pytest.raises(DataError, match="there are no values"):
        function(np.array([]), np.array([]))


def test_probabilities_outside_the_unit_interval_are_refused():
    with pytest.raises(DataError, match=r"outside 0\.\.1"):
        metrics.log_loss(np.array([True, False]), np.array([1.5, 0.5]))


def test_lists_without_users_and_unknown_items_are_refused():
    with pytest.raises(DataError, match="shape"):
        metrics.relevance_of(np.zeros((0, 3), dtype=int), [], NUM_ITEMS)
    with pytest.raises(DataError, match="not below"):
        metrics.relevance_of(np.array([[NUM_ITEMS]]), [np.array([1])], NUM_ITEMS)
    with pytest.raises(DataError, match="cannot be judged"):
        metrics.recall_at(np.array([[True]]), np.array([0]), 1)


def test_sklearn_agrees_on_ndcg():
    generator = np.random.default_rng(3)
    truth = generator.integers(0, 2, size=(6, 20))
    truth[:, 0] = 1
    score = generator.permuted(np.tile(np.arange(20.0), (6, 1)), axis=1)
    lists = np.argsort(-score, axis=1) + 1
    relevant = [np.flatnonzero(row) + 1 for row in truth]
    found = metrics.relevance_of(lists, relevant, 21)
    ours = metrics.ndcg_at(found, truth.sum(axis=1), 10).mean()
    assert ours == pytest.approx(sklearn_metrics.ndcg_score(truth, score, k=10))
