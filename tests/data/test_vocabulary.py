from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leanrec.data.vocabulary import Vocabularies, Vocabulary, latest_vocabulary, vocabulary_fingerprint
from leanrec.errors import DataError
from leanrec.files import write_json

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


def test_an_attribute_that_comes_back_goes_on_from_where_it_was(tables):
    events, items, users = tables
    before = Vocabularies().extend(events, items, users, ("age", "gender"))
    without = before.extend(events, items, users, ("age",))
    newcomer = pa.table({"user_id": ["u3"], "gender": ["M"], "age": ["18-24"]})
    again = without.extend(events, items, newcomer, ("gender", "age"))
    assert again.attributes["gender"].ids.to_pylist() == ["F", "M"]
    assert list(again.attributes) == ["gender", "age"]
    assert without.first_change_since(before) is None
    assert again.first_change_since(before) is None
    assert replace(again, attributes=without.attributes).first_change_since(again) == "attribute 'gender'"


def publish(repository, version, vocabularies, lineage):
    folder = repository / "recommender" / str(version) / "release"
    vocabularies.save(folder / "vocabulary")
    write_json(folder / "manifest.json", {"lineage": lineage})


def test_runs_that_take_turns_with_a_cache_never_give_an_index_two_meanings(tmp_path):
    cache, built = {}, []
    newest = Vocabularies()
    for version, inputs in enumerate(["A", "A", "B", "A", "A", "C", "B"], 1):
        fingerprint = vocabulary_fingerprint(tmp_path, inputs)
        if (inputs, fingerprint) not in cache:
            folder = latest_vocabulary(tmp_path)
            before = Vocabularies.load(folder) if folder else Vocabularies()
            table = pa.table({"item_id": ["common", f"of {inputs}"], "categories": [[], ["Drama"]]})
            no_users = pa.table({"user_id": pa.array([], pa.string())})
            cache[inputs, fingerprint] = before.extend(no_users, table, no_users, ())
            built.append(version)
        found = cache[inputs, fingerprint]
        assert found.first_change_since(newest) is None, version
        publish(tmp_path, version, found, {"inputs": inputs, "vocabulary_fingerprint": fingerprint})
        newest = found
    assert newest.items.ids.to_pylist() == ["common", "of A", "of B", "of C"]
    assert built == [1, 3, 4, 6, 7], "the same run again uses its features again"


def test_the_fingerprint_names_the_newest_vocabulary(tmp_path, tables):
    assert vocabulary_fingerprint(tmp_path) == ""
    first = Vocabularies().extend(*tables, ())
    publish(tmp_path, 1, first, {})
    one = vocabulary_fingerprint(tmp_path, "A")
    publish(tmp_path, 2, first.extend(*tables, ("age",)), {})
    assert len({"", one, vocabulary_fingerprint(tmp_path, "A")}) == 3


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
