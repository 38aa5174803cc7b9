"""The baselines know what they claim to know, and nothing more."""

import numpy as np
import pytest

from leanrec.evaluation import lists
from leanrec.evaluation.baselines import recommend_by_neighbours, recommend_popular
from leanrec.evaluation.protocol import load_protocol, ndcg_per_user


@pytest.fixture(scope="module")
def protocols(world):
    return tuple(load_protocol(world.features, world.training_set, split) for split in ("test", "valid"))


def test_best_items_leaves_out_seen_items_and_settles_ties_by_index():
    scores = np.array([[9.0, 1.0, 3.0, 3.0, 2.0], [9.0, 1.0, 2.0, 3.0, 4.0]])
    seen = np.array([[4, 0], [1, 2]])
    assert lists.best_items(scores, seen, 3).tolist() == [[2, 3, 1], [4, 3, 0]]


def test_popularity_is_the_count_of_train_events(world, protocols):
    test, valid = protocols
    popular = recommend_popular(test, valid, 10)
    liked_only = popular.chosen["signal"] == "liked"
    counts = np.zeros(test.num_items)
    for row in world.rows:
        if row["split"] == "train" and (row["liked"] or not liked_only):
            counts[row["item_index"]] += 1
    for place, items in enumerate(popular.item_index):
        left = np.setdiff1d(np.arange(1, test.num_items), test.requests["seen"][place])
        expected = sorted(left, key=lambda item: (-counts[item], item))[:10]
        assert items.tolist() == expected


def test_no_baseline_recommends_a_seen_item(protocols):
    test, valid = protocols
    for recommend in (recommend_popular, recommend_by_neighbours):
        answered = recommend(test, valid, 10).item_index
        for items, seen in zip(answered, test.requests["seen"], strict=True):
            shown = items[items > 0]
            assert not np.isin(shown, seen).any() and np.unique(shown).size == shown.size


def test_neighbours_find_the_taste_that_popularity_cannot(protocols):
    test, valid = protocols
    popular = ndcg_per_user(recommend_popular(test, valid, 10).item_index, test).mean()
    neighbours = ndcg_per_user(recommend_by_neighbours(test, valid, 10).item_index, test).mean()
    assert neighbours > 1.2 * popular


def test_baselines_answer_the_same_twice(protocols):
    test, valid = protocols
    first, second = (recommend_by_neighbours(test, valid, 10) for _ in range(2))
    np.testing.assert_array_equal(first.item_index, second.item_index)
    assert first.chosen == second.chosen


def test_baselines_do_not_see_the_events_held_out(tmp_path, world, protocols, write_world):
    other = [
        {**row, "item_index": 1 + row["item_index"] % 30} if row["split"] == "test" else row
        for row in world.rows
    ]
    changed = write_world(tmp_path / "changed", other)
    test = load_protocol(changed.features, changed.training_set, "test")
    for recommend in (recommend_popular, recommend_by_neighbours):
        before = recommend(protocols[0], protocols[1], 10)
        after = recommend(test, protocols[1], 10)
        known = dict(zip(protocols[0].user.tolist(), before.item_index.tolist(), strict=True))
        after_lists = zip(test.user, after.item_index, strict=True)
        same = [known[u] == items.tolist() for u, items in after_lists if u in known]
        assert same and all(same)


def test_lists_do_not_depend_on_how_many_users_are_scored_at_once(protocols, monkeypatch):
    test, valid = protocols
    together = recommend_by_neighbours(test, valid, 10).item_index
    monkeypatch.setattr(lists, "SCORES_AT_ONCE", 3 * test.num_items)
    assert len(list(lists.user_batches(len(test.relevant), test.num_items))) > 10
    np.testing.assert_array_equal(recommend_by_neighbours(test, valid, 10).item_index, together)


def test_places_that_no_item_is_left_for_hold_the_unknown_index():
    everything = np.array([[1, 2, 3]])
    assert lists.best_items(np.ones((1, 5)), everything, 4).tolist() == [[4, 0, 0, 0]]
