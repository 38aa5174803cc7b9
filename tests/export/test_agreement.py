import numpy as np
import pytest

from leanrec.export.agreement import compare_ranker, compare_recommender, histogram


def lists(*users: list[tuple[int, float]]) -> dict[str, np.ndarray]:
    return {
        "item_index": np.array([[item for item, _ in user] for user in users]),
        "score": np.array([[score for _, score in user] for user in users], np.float32),
    }


def ten(*last: tuple[int, float]) -> list[tuple[int, float]]:
    """A list of twelve: nine sure items, then three given."""
    return [(n, 1 - n / 100) for n in range(1, 10)] + list(last)


def test_equal_lists_differ_by_nothing() -> None:
    one = lists(ten((10, 0.5), (11, 0.4), (12, 0.3)))
    found = compare_recommender(one, one, tie=1e-5)
    assert (found.largest, found.same_top_10) == (0.0, 1.0)


def test_scores_are_compared_by_item_when_two_items_swap_places() -> None:
    ours = lists(ten((10, 0.50), (11, 0.49), (12, 0.3)))
    theirs = lists(ten((11, 0.51), (10, 0.50), (12, 0.3)))
    found = compare_recommender(ours, theirs, tie=1e-5)
    assert found.largest == pytest.approx(0.02, abs=1e-6)
    assert found.same_top_10 == 0.0


def test_equals_at_the_tenth_place_may_change_places() -> None:
    ours = lists(ten((10, 0.500001), (11, 0.5), (12, 0.3)))
    theirs = lists(ten((11, 0.500001), (10, 0.5), (12, 0.3)))
    assert compare_recommender(ours, theirs, tie=1e-5).same_top_10 == 1.0


def test_an_item_that_only_one_list_holds_counts_with_what_it_has_above_the_other_lists_last() -> None:
    ours = lists(ten((10, 0.5), (11, 0.4), (12, 0.3)))
    theirs = lists(ten((10, 0.5), (11, 0.4), (13, 0.25)))
    assert compare_recommender(ours, theirs, tie=1e-5).largest == pytest.approx(0.05, abs=1e-6)


def test_of_short_lists_too_an_item_counts_with_what_it_has_above_the_last_place() -> None:
    ours, theirs = lists([(1, 0.9), (2, 0.5)]), lists([(1, 0.9), (3, 0.7)])
    assert compare_recommender(ours, theirs, tie=0.1).largest == pytest.approx(0.2)


def test_another_tenth_item_is_not_the_same_ten_however_near_its_own_place_is() -> None:
    ours = lists(ten((10, 0.5)))
    theirs = lists(ten((13, 0.5)))
    assert compare_recommender(ours, theirs, tie=0.1).same_top_10 == 0.0


def test_items_swapped_further_apart_than_the_tie_are_other_lists() -> None:
    ours, theirs = lists([(1, 0.9), (2, 0.5)]), lists([(3, 0.95), (1, 0.9)])
    assert compare_recommender(ours, theirs, tie=0.01).same_top_10 == 0.0


def test_padding_is_not_compared() -> None:
    ours = lists([(3, 0.5), (0, -1.0)])
    theirs = lists([(3, 0.5), (0, -9.0)])
    assert compare_recommender(ours, theirs, tie=1e-5).largest == 0.0


def test_the_ranker_is_compared_candidate_by_candidate() -> None:
    found = compare_ranker({"score": np.array([[0.5, 7.0]])}, {"score": np.array([[0.25, 7.0]])})
    assert (found.scores.tolist(), found.same_top_10) == ([0.25, 0.0], None)


def test_a_score_that_is_no_number_is_no_small_difference() -> None:
    ours = lists(ten((10, 0.5), (11, 0.4), (12, 0.3)))
    theirs = lists(ten((10, float("nan")), (11, 0.4), (12, 0.3)))
    assert np.isnan(compare_recommender(ours, theirs, tie=1e-5).largest)


def test_a_score_that_is_no_number_is_not_hidden_by_an_item_that_only_one_list_holds() -> None:
    ours = lists([(1, 0.9), (2, float("nan"))])
    theirs = lists([(1, 0.9), (3, 0.5)])
    assert np.isnan(compare_recommender(ours, theirs, tie=1e-5).largest)
    assert np.isnan(compare_recommender(theirs, ours, tie=1e-5).largest)


def test_a_candidates_score_that_is_no_number_is_no_small_difference() -> None:
    found = compare_ranker({"score": np.array([[0.5, 7.0]])}, {"score": np.array([[0.5, np.nan]])})
    assert np.isnan(found.largest)


def test_the_histogram_holds_every_difference() -> None:
    found = histogram(np.array([0.0, 0.1, 0.2, 0.2]))
    assert sum(found["counts"]) == 4
    assert len(found["edges"]) == len(found["counts"]) + 1
    assert found["edges"][0] == 0 and 0.2 <= found["edges"][-1] < 0.5
    assert found["counts"][0] == 1  # the zero


def test_a_ratio_is_the_greater_score_over_the_lesser() -> None:
    found = compare_recommender(lists([(1, 0.8), (2, 0.3)]), lists([(2, 0.6), (1, 0.4)]))
    assert found.largest_ratio == pytest.approx(2.0)
    of_one = compare_ranker({"score": np.array([[0.2]])}, {"score": np.array([[0.3]])})
    assert of_one.largest_ratio == pytest.approx(1.5)


def test_scores_too_small_to_be_shown_differ_by_no_ratio() -> None:
    ours, theirs = {"score": np.array([[0.5, 1e-9]])}, {"score": np.array([[0.5, 1e-12]])}
    assert compare_ranker(ours, theirs).largest_ratio == 1.0
    assert compare_ranker(ours, {"score": np.zeros((1, 2))}).largest_ratio == pytest.approx(1000.0)


def test_a_ratio_that_cannot_be_told_is_no_number() -> None:
    nothing_shared = compare_recommender(lists([(1, 0.8)]), lists([(2, 0.8)]))
    no_number = compare_ranker({"score": np.array([[0.5]])}, {"score": np.array([[np.nan]])})
    assert np.isnan(nothing_shared.largest_ratio) and np.isnan(no_number.largest_ratio)


def test_the_share_of_the_ten_items_counts_items_and_not_places() -> None:
    first = ten((10, 0.5), (11, 0.4), (12, 0.3))
    ours = lists(first, [(1, 0.9), (2, 0.5), *[(0, -1.0)] * 10])
    theirs = lists(ten((11, 0.5), (10, 0.4), (12, 0.3)), [(2, 0.9), (1, 0.5), *[(0, -1.0)] * 10])
    assert compare_recommender(ours, theirs).shared_top_10 == pytest.approx((0.9 + 1.0) / 2)
