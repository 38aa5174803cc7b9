"""Reading the training set, and what is refused."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from training_world import HISTORY, NUM_ITEMS, NUM_USERS, training_table

from leanrec.errors import TrainingError
from leanrec.schema import ModelSpec
from leanrec.training.examples import first_row_of_each_user, read_examples

SPEC = ModelSpec(
    num_users=NUM_USERS + 1,
    num_items=NUM_ITEMS,
    num_categories=4,
    attribute_cardinalities={"group": 3},
    history_length=HISTORY,
    top_k=5,
    liked_threshold=4.0,
)


def write(folder, table: pa.Table):
    pq.write_table(table, folder / "training_set.parquet")
    return folder / "training_set.parquet"


def test_histories_are_padded_at_the_end_and_rows_come_in_order_of_time(tmp_path):
    examples = read_examples(write(tmp_path, training_table()), "train", SPEC)
    assert len(examples) == NUM_USERS * 14
    assert examples.user.history.shape == (NUM_USERS * 14, HISTORY)
    third = examples.user.history[2 * NUM_USERS]
    assert (third[:2] > 0).all() and (third[2:] == 0).all()
    first = first_row_of_each_user(examples)
    assert len(first) == NUM_USERS and (examples.user.history[first] == 0).all()


def changed(name: str, change) -> pa.Table:
    table = training_table()
    place = table.schema.get_field_index(name)
    return table.set_column(place, name, change(table[name]))


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (training_table().drop_columns(["history"]), "column 'history' is missing"),
        (training_table().filter(pc.equal(training_table()["split"], "test")), "no event in split 'train'"),
        (training_table().slice(0, 0), "no event in split 'train'"),
        (changed("rating", lambda c: pc.multiply(c, pa.scalar(float("nan"), pa.float32()))), "'rating'"),
        (changed("item_index", lambda c: pc.add(c, 50)), "'item_index' must lie in 0..30"),
        (changed("user_index", pc.negate), "'user_index' must lie in"),
        (changed("user_attributes", lambda c: pa.array([[1, 2]] * len(c))), "exactly 1 values, one has 2"),
        (changed("history", lambda c: pa.array([list(range(9))] * len(c))), "at most 8 values, one has 9"),
    ],
    ids=["no column", "no train", "empty", "nan", "item index", "user index", "attributes", "history"],
)
def test_a_training_set_that_breaks_a_rule_is_refused_in_one_sentence(tmp_path, table, sentence):
    with pytest.raises(TrainingError, match=sentence) as caught:
        read_examples(write(tmp_path, table), "train", SPEC)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_refused(tmp_path):
    path = write(tmp_path, training_table())
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(TrainingError, match="not a training set"):
        read_examples(path, "train", SPEC)
