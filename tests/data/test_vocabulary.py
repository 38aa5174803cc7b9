import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leanrec.data.vocabulary import Vocabularies, Vocabulary, latest_vocabulary
from leanrec.errors import DataError

ids = st.lists(st.one_of(st.none(), st.text(max_size=3)), max_size=12)


@given(st.lists(ids, max_size=4))
def test_extending_never_changes_an_index(batches):
    vocabulary, meaning = Vocabulary(), {}
    for batch in batches:
        vocabulary = vocabulary.extended(batch)
        for known, index in meaning.items():
            assert vocabulary.index_of([known]).tolist() == [index]
        meaning |= {name: int(vocabulary.index_of([name])[0]) for name in batch if name}
    assert sorted(meaning.values()) == list(range(1, vocabulary.cardinality))


@given(ids, ids)
def test_new_ids_are_appended_in_the_order_of_their_first_appearance(first, second):
    expected = list(dict.fromkeys(name for name in first + second if name))
    assert Vocabulary().extended(first).extended(second).ids.to_pylist() == expected


def test_unknown_null_and_empty_ids_have_index_0():
    vocabulary = Vocabulary().extended(["a", "b"])
    indices = vocabulary.index_of(pa.chunked_array([["b", "x"], [None, "", "a"]]))
    assert indices.tolist() == [2, 0, 0, 0, 1]
    assert indices.dtype == np.int64
    assert vocabulary.cardinality == 3
    assert Vocabulary().index_of(["a"]).tolist() == [0]
    assert Vocabulary().index_of([]).tolist() == []


@pytest.fixture
def tables():
    events = pa.table({"user_id": ["u1", "u9"], "item_id": ["i2", "i9"]})
    items = pa.table({"item_id": ["i1", "i2"], "categories": [["Drama", "Crime"], ["Crime"]]})
    users = pa.table({"user_id": ["u1", "u2"], "gender": ["F", None], "age": ["18-24", "56+"]})
    return events, items, users


def test_the_tables_extend_every_vocabulary(tables):
    found = Vocabularies().extend(*tables, ("age", "gender"))
    assert found.users.ids.to_pylist() == ["u1", "u2", "u9"]
    assert found.items.ids.to_pylist() == ["i1", "i2"]
    assert found.categories.ids.to_pylist() == ["Drama", "Crime"]
    assert {name: v.ids.to_pylist() for name, v in found.attributes.items()} == {
        "age": ["18-24", "56+"],
        "gender": ["F"],
    }
    assert found.extend(*tables, ("age", "gender")) == found


def test_vocabularies_are_read_as_they_were_written(tmp_path, tables):
    written = Vocabularies().extend(*tables, ("gender", "age"))
    written.save(tmp_path / "vocabulary")
    read = Vocabularies.load(tmp_path / "vocabulary")
    assert read == written
    assert list(read.attributes) == ["gender", "age"]


def test_a_folder_that_lacks_a_file_is_refused(tmp_path, tables):
    Vocabularies().extend(*tables, ()).save(tmp_path)
    (tmp_path / "items.parquet").unlink()
    with pytest.raises(DataError, match=r"not a vocabulary folder .*items\.parquet"):
        Vocabularies.load(tmp_path)


def test_a_vocabulary_that_was_tampered_with_is_refused(tmp_path, tables):
    Vocabularies().extend(*tables, ()).save(tmp_path)
    (tmp_path / "categories.json").write_text('["Drama", "Drama"]')
    with pytest.raises(DataError, match=r"categories\.json holds an empty or repeated id"):
        Vocabularies.load(tmp_path)


def test_the_newest_release_is_found_by_number_not_by_spelling(tmp_path):
    assert latest_vocabulary(tmp_path / "nowhere") is None
    for version in ("2", "10", "9", "staging"):
        (tmp_path / "recommender" / version / "release" / "vocabulary").mkdir(parents=True)
    (tmp_path / "recommender" / "11").mkdir()
    assert latest_vocabulary(tmp_path) == tmp_path / "recommender" / "10" / "release" / "vocabulary"
