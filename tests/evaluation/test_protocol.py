"""The protocol asks what it says: the row before the first event held out, nothing seen, all relevant."""

import numpy as np
import pytest

from leanrec.errors import ConfigError, DataError
from leanrec.evaluation.protocol import evaluate_lists, evaluate_scores, load_protocol
from leanrec.evaluation.rows import stack_lists


@pytest.fixture(scope="module")
def protocol(world):
    return load_protocol(world.features, world.training_set, "test")


def events_of(world, user_index, *splits):
    rows = [r for r in world.rows if r["user_index"] == user_index and r["split"] in splits]
    return sorted(rows, key=lambda row: row["event_timestamp"])


def test_there_is_one_request_for_each_user_who_likes_something_new(world, protocol):
    expected = {r["user_index"] for r in world.rows if r["split"] == "test" and r["liked"]}
    assert sorted(protocol.requests["user_index"][:, 0]) == sorted(expected)


def test_a_request_is_the_row_before_the_first_event_held_out(world, protocol):
    for place, user in enumerate(protocol.requests["user_index"][:, 0]):
        first = events_of(world, user, "test")[0]
        history = protocol.requests["history"][place]
        assert history.tolist() == first["history"] + [0] * (history.size - len(first["history"]))
        ratings = protocol.requests["history_ratings"][place].tolist()
        assert ratings[: len(first["history_ratings"])] == first["history_ratings"]
        np.testing.assert_allclose(
            protocol.requests["user_statistics"][place], first["user_statistics"], rtol=1e-6
        )
        assert protocol.requests["user_attributes"][place].tolist() == first["user_attributes"]


@pytest.mark.parametrize(("split", "earlier"), [("valid", ["train"]), ("test", ["train", "valid"])])
def test_seen_is_every_earlier_item_and_relevant_every_liked_new_one(world, split, earlier):
    protocol = load_protocol(world.features, world.training_set, split)
    for place, user in enumerate(protocol.requests["user_index"][:, 0]):
        seen = {r["item_index"] for r in events_of(world, user, *earlier)}
        wanted = {r["item_index"] for r in events_of(world, user, split) if r["liked"]} - seen
        assert set(protocol.requests["seen"][place].tolist()) - {0} == seen
        assert set(protocol.relevant[place].tolist()) == wanted


def test_the_pairs_are_every_event_held_out_with_its_own_row(world, protocol):
    expected = {(r["user_index"], r["item_index"]): r for r in world.rows if r["split"] == "test"}
    pairs = protocol.pairs
    assert pairs.liked.size == len(expected)
    for row in range(pairs.liked.size):
        event = expected[(int(pairs.inputs["user_index"][row, 0]), int(pairs.item_index[row]))]
        assert (bool(pairs.liked[row]), float(pairs.rating[row])) == (event["liked"], event["rating"])
        assert pairs.inputs["user_statistics"][row, 0] == event["user_statistics"][0]
        assert pairs.inputs["history"][row].tolist()[: len(event["history"])] == event["history"]


def test_tensors_have_the_served_types_and_shapes(protocol):
    num_requests, num_pairs = len(protocol.relevant), protocol.pairs.liked.size
    types = {name: (values.dtype.name, values.shape[0]) for name, values in protocol.requests.items()}
    assert types == {
        "user_index": ("int64", num_requests),
        "user_attributes": ("int64", num_requests),
        "user_statistics": ("float32", num_requests),
        "history": ("int64", num_requests),
        "history_ratings": ("float32", num_requests),
        "seen": ("int64", num_requests),
    }
    assert protocol.pairs.inputs["candidates"].shape == (num_pairs, 1)


def test_a_perfect_list_and_a_perfect_score_get_perfect_figures(protocol):
    perfect = stack_lists(protocol.relevant)
    perfect = np.pad(perfect, ((0, 0), (0, 30 - perfect.shape[1])))
    figures = evaluate_lists(perfect, protocol, (5, 20))
    assert figures["ndcg@10"] == figures["recall@20"] == figures["hit_rate@5"] == figures["mrr@5"] == 1.0
    scores = evaluate_scores(protocol.pairs.liked.astype(float), protocol.pairs.rating, protocol)
    assert scores["auc"] == 1.0 and scores["rmse"] == 0.0 and scores["ece"] == 0.0


def test_a_sample_is_the_same_each_time_and_not_larger_than_asked(world):
    first, second = (
        load_protocol(world.features, world.training_set, max_users=7, max_pairs=20) for _ in range(2)
    )
    assert len(first.relevant) == 7 and first.pairs.liked.size == 20
    np.testing.assert_array_equal(first.requests["history"], second.requests["history"])


def test_a_cut_off_longer_than_the_lists_is_refused(protocol):
    with pytest.raises(ConfigError, match=r"evaluation\.ks holds 20, but a list has 10"):
        evaluate_lists(np.zeros((len(protocol.relevant), 10), dtype=int), protocol, (20,))


def test_lists_of_other_users_are_refused(protocol):
    with pytest.raises(DataError, match="but there are 3 lists"):
        evaluate_lists(np.ones((3, 30), dtype=int), protocol, (5,))


def test_nan_scores_are_refused(protocol):
    like = np.full(protocol.pairs.liked.size, np.nan)
    with pytest.raises(DataError, match="NaN"):
        evaluate_scores(like, like, protocol)


def test_an_empty_split_and_a_split_without_likes_say_what_to_do(tmp_path, world, write_world):
    train_only = [{**row, "split": "train"} for row in world.rows]
    empty = write_world(tmp_path / "empty", train_only)
    with pytest.raises(DataError, match=r"raise features\.test_fraction"):
        load_protocol(empty.features, empty.training_set)
    unloved = write_world(tmp_path / "unloved", [{**row, "liked": False} for row in world.rows])
    with pytest.raises(DataError, match="no user likes a new item"):
        load_protocol(unloved.features, unloved.training_set)
    loved = write_world(tmp_path / "loved", [{**row, "liked": True} for row in world.rows])
    with pytest.raises(DataError, match=r"all \d+ events held out in the split 'test' are liked.*raise"):
        load_protocol(loved.features, loved.training_set)


def test_a_file_that_is_no_training_set_is_named(tmp_path, world):
    broken = tmp_path / "training_set.parquet"
    broken.write_bytes(world.training_set.read_bytes()[:100])
    with pytest.raises(DataError, match=r"training_set\.parquet: not a training set"):
        load_protocol(world.features, broken)


def test_a_protocol_does_not_depend_on_the_order_of_rows(tmp_path, world, write_world):
    turned = write_world(tmp_path / "turned", world.rows[::-1])
    first = load_protocol(world.features, world.training_set)
    second = load_protocol(turned.features, turned.training_set)
    for name, values in first.requests.items():
        np.testing.assert_array_equal(values, second.requests[name])
