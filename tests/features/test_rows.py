"""From lists of any length to the shapes that the graphs take."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from leanrec.features.rows import UserRow, pad_lists, stack_table, stack_user_rows, unknown_user
from leanrec.schema import RECOMMENDER, ModelSpec

SPEC = ModelSpec(
    num_users=10,
    num_items=100,
    num_categories=3,
    attribute_cardinalities={"gender": 3, "age": 5},
    history_length=3,
    top_k=5,
    liked_threshold=4.0,
)
DTYPES = {"INT64": np.int64, "FP32": np.float32}


def row(history: list[int], seen: list[int] | None = None, **changes: object) -> UserRow:
    values = {
        "user_index": 4,
        "user_attributes": {"gender": 1, "age": 2},
        "user_statistics": np.array([3, 1, 2.5], np.float32),
        "history": np.array(history, np.int64),
        "history_ratings": np.array(history, np.float32) / 10,
        "seen": np.array(history if seen is None else seen, np.int64),
    }
    return UserRow(**{**values, **changes})


def training_table(rows: list[UserRow]) -> pa.Table:
    """The rows as a training set holds them; the attributes in the order of SPEC."""
    return pa.table(
        {
            "user_index": [r.user_index for r in rows],
            "user_attributes": pa.array(
                [list(r.user_attributes.values()) for r in rows], pa.list_(pa.int64())
            ),
            "user_statistics": pa.array([r.user_statistics for r in rows], pa.list_(pa.float32())),
            "history": pa.array([r.history for r in rows], pa.list_(pa.int64())),
            "history_ratings": pa.array([r.history_ratings for r in rows], pa.list_(pa.float32())),
        }
    )


def test_tensors_have_the_names_types_and_shapes_of_the_spec() -> None:
    for rows in ([row([1, 2])], [row([]), row([5, 6, 7, 8]), unknown_user()]):
        tensors = stack_user_rows(rows, SPEC)
        assert set(tensors) == {spec.name for spec in SPEC.inputs(RECOMMENDER)}
        for spec in SPEC.inputs(RECOMMENDER):
            tensor = tensors[spec.name]
            assert tensor.dtype == DTYPES[spec.dtype], spec.name
            wanted = tensor.shape[1:] if spec.shape == (-1,) else spec.shape
            assert tensor.shape == (len(rows), *wanted), spec.name


def test_the_most_recent_items_are_kept_oldest_first_and_zeros_follow() -> None:
    tensors = stack_user_rows([row([5, 6, 7, 8]), row([9])], SPEC)
    assert tensors["history"].tolist() == [[6, 7, 8], [9, 0, 0]]
    assert tensors["history_ratings"] == pytest.approx(np.array([[0.6, 0.7, 0.8], [0.9, 0, 0]]))


def test_every_seen_item_is_there_however_many() -> None:
    many = list(range(1, 100)) * 3
    seen = row([1], seen=many).tensors(SPEC)["seen"]
    assert seen[0, : len(many)].tolist() == many
    assert not seen[0, len(many) :].any()
    assert row([1], seen=many[:-1]).tensors(SPEC)["seen"].shape == seen.shape


def test_an_index_that_the_model_does_not_know_is_unknown() -> None:
    newer = row([99, 100, 7], user_index=10, user_attributes={"gender": 2, "age": 5})
    tensors = newer.tensors(SPEC)
    assert tensors["user_index"].tolist() == [[0]]
    assert tensors["user_attributes"].tolist() == [[2, 0]]
    assert tensors["history"].tolist() == [[99, 0, 7]]
    assert tensors["seen"][0, :3].tolist() == [99, 0, 7]


def test_a_model_gets_its_own_attributes_whatever_a_row_holds() -> None:
    wider = row([1], user_attributes={"city": 7, "age": 4, "gender": 2})
    narrower = row([1], user_attributes={"age": 3})
    assert stack_user_rows([wider, narrower], SPEC)["user_attributes"].tolist() == [[2, 4], [0, 3]]


def test_a_model_without_attributes_gets_one_constant_column() -> None:
    without = replace(SPEC, attribute_cardinalities={})
    rows = [row([1]), unknown_user()]
    assert stack_user_rows(rows, without)["user_attributes"].tolist() == [[0], [0]]
    table = training_table([row([1], user_attributes={})])
    assert stack_table(table, without)["user_attributes"].tolist() == [[0]]


def test_a_training_set_gives_the_same_tensors_as_rows_do() -> None:
    rows = [row([5, 6, 7, 8]), row([]), row([1, 2], user_index=12)]
    table = training_table(rows)
    expected = stack_user_rows(rows, SPEC)
    found = stack_table(pa.concat_tables([table, table]).slice(1, 3), SPEC)
    for name, tensor in found.items():
        assert np.array_equal(tensor, expected[name][[1, 2, 0]]), name
    assert set(found) == set(expected) - {"seen"}


def test_padding_of_nothing_is_nothing() -> None:
    assert pad_lists(np.zeros(0, np.int64), np.zeros(1, np.int64), 4).shape == (0, 4)
