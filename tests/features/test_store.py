"""The training set and the online rows, with SQLite."""

import re
import sqlite3
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from online_parity import assert_online_rows_are_the_latest_offline_rows, model_spec
from small_world import build, event, rows_of, some_events, write_tables

from leanrec.config import DataSettings, FeatureStoreSettings
from leanrec.errors import DataError, FeatureStoreError
from leanrec.features.definitions import PROJECT
from leanrec.features.online import OnlineUsers
from leanrec.features.project import online_path
from leanrec.features.store import build_training_set, materialize_features, require_same_events
from leanrec.files import read_json

EVENTS = some_events()


@pytest.fixture
def world(tmp_path: Path) -> dict[str, Path]:
    return build(tmp_path, EVENTS)


@pytest.fixture
def settings(tmp_path: Path) -> FeatureStoreSettings:
    return FeatureStoreSettings(repository=str(tmp_path / "store"))


def materialize(settings: FeatureStoreSettings, world: dict[str, Path]) -> dict:
    return materialize_features(
        settings, features=world["features"], output=Path(settings.repository).parent / "counts.json"
    )


def test_the_training_set_has_the_columns_and_types_that_were_agreed(
    world: dict[str, Path], settings: FeatureStoreSettings, tmp_path: Path
) -> None:
    output = tmp_path / "training_set.parquet"
    build_training_set(settings, events=world["events"], features=world["features"], output=output)
    schema = pq.read_schema(output)
    types = {name: str(schema.field(name).type).replace("list<element: ", "list<") for name in schema.names}
    assert types == {
        "event_id": "string",
        "user_id": "string",
        "item_id": "string",
        "item_index": "int64",
        "event_timestamp": "timestamp[us, tz=UTC]",
        "rating": "float",
        "liked": "bool",
        "split": "string",
        "user_index": "int64",
        "user_attributes": "list<int64>",
        "user_statistics": "list<float>",
        "history": "list<int64>",
        "history_ratings": "list<float>",
    }
    assert pq.read_metadata(output).num_rows == len(EVENTS)
    assert not any(column.null_count for column in pq.read_table(output).columns)


def test_events_of_one_user_and_timestamp_all_come_back(
    settings: FeatureStoreSettings, tmp_path: Path
) -> None:
    events = [event(n, "u", "a", 1) for n in range(5)] + [event(9, "u", "a", 2)]
    world = build(tmp_path, events)
    output = tmp_path / "training_set.parquet"
    build_training_set(settings, events=world["events"], features=world["features"], output=output)
    rows = rows_of(output)
    assert [len(row["history"]) for row in rows] == [0, 0, 0, 0, 0, 3]
    assert rows[-1]["user_statistics"] == [5, 5, 5]


def test_somebody_without_a_past_gets_zeros(
    world: dict[str, Path], settings: FeatureStoreSettings, tmp_path: Path
) -> None:
    strangers = [event(1, "a stranger", "never seen", 10_000), event(2, "a stranger", "not an item", 10_000)]
    asked = write_tables(tmp_path / "strangers", strangers)["events"]
    output = tmp_path / "training_set.parquet"
    build_training_set(settings, events=asked, features=world["features"], output=output)
    known, unknown = rows_of(output)
    for row in (known, unknown):
        assert (row["user_index"], row["user_attributes"]) == (0, [0])
        assert (row["user_statistics"], row["history"], row["history_ratings"]) == ([0, 0, 0], [], [])
    assert (known["item_index"], unknown["item_index"]) == (5, 0)


def test_a_table_that_repeats_a_row_is_noticed_and_leaves_nothing(
    world: dict[str, Path], settings: FeatureStoreSettings, tmp_path: Path
) -> None:
    splits = world["features"] / "splits.parquet"
    table = pq.read_table(splits)
    pq.write_table(pa.concat_tables([table, table.slice(0, 2)]), splits)
    output = tmp_path / "training_set.parquet"
    with pytest.raises(FeatureStoreError, match=f"has {len(EVENTS) + 2} rows for {len(EVENTS)} events"):
        build_training_set(settings, events=world["events"], features=world["features"], output=output)
    assert not output.exists()


def test_lost_and_exchanged_events_are_noticed() -> None:
    asked = pa.table({"event_id": ["1", "2", "3"]})
    require_same_events(asked, pa.table({"event_id": ["3", "1", "2"]}))
    for answered in (["1", "2"], ["1", "2", "2"], ["1", "2", "4"]):
        with pytest.raises(FeatureStoreError, match=f"has {len(answered)} rows for 3 events"):
            require_same_events(asked, pa.table({"event_id": answered}))


def test_the_online_row_is_the_offline_row_at_the_latest_time(
    world: dict[str, Path], settings: FeatureStoreSettings, tmp_path: Path
) -> None:
    counts = materialize(settings, world)
    assert counts == {"online": "sqlite", "user_profile": 6, "user_seen": 6, "user_activity": 6}
    assert read_json(tmp_path / "counts.json") == counts
    assert_online_rows_are_the_latest_offline_rows(settings, world, EVENTS, tmp_path)


def test_users_without_attributes_have_rows_too(settings: FeatureStoreSettings, tmp_path: Path) -> None:
    world = build(tmp_path, EVENTS, data=DataSettings(source="csv", events="e", items="i"))
    materialize(settings, world)
    assert_online_rows_are_the_latest_offline_rows(settings, world, EVENTS, tmp_path)


def test_a_model_from_before_an_attribute_was_added_still_gets_its_own(
    settings: FeatureStoreSettings, tmp_path: Path
) -> None:
    names = ("city", "group")
    data = DataSettings(source="csv", events="e", items="i", user_attributes=names)
    before = build(tmp_path / "before", EVENTS)
    after = build(tmp_path / "after", EVENTS, data=data)
    materialize(settings, after)
    row = OnlineUsers(settings).row("u1")
    assert row is not None
    assert row.user_attributes == {"city": 2, "group": 2}
    assert row.tensors(model_spec(before["features"]))["user_attributes"].tolist() == [[2]]
    assert row.tensors(model_spec(after["features"]))["user_attributes"].tolist() == [[2, 2]]
    materialize(settings, before)
    row = OnlineUsers(settings).row("u1")
    assert row is not None
    assert row.tensors(model_spec(after["features"]))["user_attributes"].tolist() == [[0, 2]]


def test_rows_that_do_not_name_their_attributes_are_refused(
    world: dict[str, Path], settings: FeatureStoreSettings
) -> None:
    materialize(settings, world)
    with sqlite3.connect(online_path(settings)) as file:
        file.execute(f"DELETE FROM {PROJECT}_user_profile WHERE feature_name = 'attribute_names'")
    with pytest.raises(FeatureStoreError, match="do not say which attributes they hold"):
        OnlineUsers(settings).row("u1")


def test_a_stranger_has_no_row(world: dict[str, Path], settings: FeatureStoreSettings) -> None:
    materialize(settings, world)
    users = OnlineUsers(settings)
    assert users.row("a stranger") is None
    found = users.rows(["u1", "a stranger", "u0", "u1"])
    assert [row and row.user_index for row in found] == [2, None, 1, 2]
    assert users.rows([]) == []


def test_a_store_that_was_never_filled_says_so(settings: FeatureStoreSettings) -> None:
    with pytest.raises(
        FeatureStoreError, match=r"online\.db: no user rows to read .* materialize the features"
    ):
        OnlineUsers(settings).row("u1")


def test_a_reader_sees_the_next_materialization_and_no_vanished_user(
    world: dict[str, Path], settings: FeatureStoreSettings, tmp_path: Path
) -> None:
    materialize(settings, world)
    users = OnlineUsers(settings)
    before = users.row("u1")
    assert before is not None
    assert users.row("u5") is not None
    # Somebody asked to be forgotten, u1 watched something, and the values under an old timestamp changed.
    later = [e for e in EVENTS if e.user_id != "u5"] + [event(900, "u1", "never seen", 10_000)]
    materialize(settings, build(tmp_path / "later", later))
    after = users.row("u1")
    assert after is not None
    assert after.history[-1] == 5
    assert np.array_equal(after.seen, [*before.seen, 5])
    assert users.row("u5") is None


def test_doing_it_twice_changes_nothing(
    world: dict[str, Path], settings: FeatureStoreSettings, tmp_path: Path
) -> None:
    first = materialize(settings, world)
    row = OnlineUsers(settings).row("u2")
    assert materialize(settings, world) == first
    again = OnlineUsers(settings).row("u2")
    assert row is not None
    assert again is not None
    spec = model_spec(world["features"])
    for name, tensor in row.tensors(spec).items():
        assert np.array_equal(tensor, again.tensors(spec)[name])
    names = sorted(file.name for file in Path(settings.repository).iterdir())
    assert names == [".lock", "offline", "online.db", "registry.db"]


def test_a_folder_without_features_is_refused(tmp_path: Path, settings: FeatureStoreSettings) -> None:
    with pytest.raises(DataError, match=r"user_profile\.parquet: no such file"):
        materialize_features(settings, features=tmp_path, output=tmp_path / "counts.json")


def test_feast_says_nothing_of_its_own(
    world: dict[str, Path], settings: FeatureStoreSettings, capfd: pytest.CaptureFixture[str]
) -> None:
    materialize(settings, world)
    captured = capfd.readouterr()
    assert re.sub(r"\s", "", captured.out + captured.err) == ""
