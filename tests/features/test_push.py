"""A pushed row is the row that the pipeline would make of the same events."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pushed_rows import assert_pushed_rows_are_materialized_rows
from small_world import LIKED, START, build, event, some_events

from leanrec.config import FeatureSettings, FeatureStoreSettings
from leanrec.errors import FeatureStoreError
from leanrec.features.online import OnlineUsers
from leanrec.features.push import OnlineUsersWriter, Rating, row_after
from leanrec.features.rows import UserRow, unknown_user
from leanrec.features.store import materialize_features

FEATURES = FeatureSettings(history_length=3, liked_threshold=LIKED)
SECOND = timedelta(seconds=1)


@pytest.fixture
def settings(tmp_path: Path) -> FeatureStoreSettings:
    return FeatureStoreSettings(repository=str(tmp_path / "store"))


def test_a_pushed_row_is_the_materialized_one(settings: FeatureStoreSettings, tmp_path: Path) -> None:
    assert_pushed_rows_are_materialized_rows(settings, tmp_path)


def test_a_user_of_whom_nothing_was_known_has_a_history_at_once(
    settings: FeatureStoreSettings, tmp_path: Path
) -> None:
    world = build(tmp_path, some_events())
    materialize_features(settings, features=world["features"], output=tmp_path / "counts.json")
    reader = OnlineUsers(settings)
    assert reader.row("new") is None
    OnlineUsersWriter(settings, FEATURES).push({"new": [Rating(item_index=2, rating=4.5, timestamp=START)]})
    row = reader.row("new")
    assert row is not None
    assert (row.user_index, dict(row.user_attributes)) == (0, {})
    assert (row.history.tolist(), row.history_ratings.tolist(), row.seen.tolist()) == ([2], [4.5], [2])
    assert row.user_statistics.tolist() == [1, 1, 4.5]


def test_pushes_of_one_user_from_many_threads_all_count(
    settings: FeatureStoreSettings, tmp_path: Path
) -> None:
    world = build(tmp_path, some_events())
    materialize_features(settings, features=world["features"], output=tmp_path / "counts.json")
    writer = OnlineUsersWriter(settings, FEATURES)
    before = writer.row("u1")
    assert before is not None
    num_threads = 8
    with ThreadPoolExecutor(num_threads) as pool:
        for _ in pool.map(
            lambda n: writer.push({"u1": [Rating(item_index=n % 4 + 1, rating=5, timestamp=START)]}),
            range(num_threads * 3),
        ):
            pass
    after = writer.row("u1")
    assert after is not None
    assert after.user_statistics[0] == before.user_statistics[0] + num_threads * 3


def test_a_click_says_nothing_of_an_item_that_the_user_has_had_to_do_with() -> None:
    click = Rating(item_index=2, rating=4, timestamp=START, is_implied=True)
    rating = Rating(item_index=3, rating=1, timestamp=START)
    row = row_after(unknown_user(), [click, click, rating, replace(click, item_index=3)], FEATURES)
    assert (row.history.tolist(), row.history_ratings.tolist()) == ([2, 3], [4, 1])
    assert row_after(row, [click], FEATURES) is row
    assert row_after(row, [replace(rating, item_index=2)], FEATURES).history.tolist() == [2, 3, 2]


def test_late_events_of_one_push_stand_in_the_order_of_their_times(
    settings: FeatureStoreSettings, tmp_path: Path
) -> None:
    world = build(tmp_path, some_events())
    materialize_features(settings, features=world["features"], output=tmp_path / "counts.json")
    writer = OnlineUsersWriter(settings, FEATURES)
    late, later = (Rating(item_index=n, rating=1, timestamp=START + n * SECOND) for n in (1, 2))
    writer.push({"u1": [later, late]})
    row = writer.row("u1")
    assert row is not None
    assert row.history.tolist()[-2:] == [1, 2]


def test_a_store_that_was_never_filled_says_so(settings: FeatureStoreSettings) -> None:
    writer = OnlineUsersWriter(settings, FEATURES)
    with pytest.raises(FeatureStoreError, match="materialize the features first"):
        writer.push({"u": [Rating(item_index=1, rating=1, timestamp=START)]})


def test_a_materialization_in_between_is_noticed(settings: FeatureStoreSettings, tmp_path: Path) -> None:
    world = build(tmp_path, some_events())
    materialize_features(settings, features=world["features"], output=tmp_path / "counts.json")
    writer = OnlineUsersWriter(settings, FEATURES)
    rating = Rating(item_index=1, rating=5, timestamp=START)
    writer.push({"u1": [rating]})
    materialize_features(settings, features=world["features"], output=tmp_path / "counts.json")
    writer.push({"u1": [rating]})
    offline = pq.read_table(world["features"] / "user_activity.parquet").to_pylist()
    events_of_u1 = max(row["num_events"] for row in offline if row["user_id"] == "u1")
    row = OnlineUsers(settings).row("u1")
    assert row is not None
    assert np.isclose(row.user_statistics[0], events_of_u1 + 1)


@pytest.mark.parametrize("written", [0, 1, 2, 3])
@pytest.mark.parametrize("user", ["u1", "new"])
def test_a_push_that_failed_and_is_pushed_again_counts_once(
    settings: FeatureStoreSettings, tmp_path: Path, written: int, user: str
) -> None:
    """However many views the store took before its answer was lost."""
    world = build(tmp_path, some_events())
    materialize_features(settings, features=world["features"], output=tmp_path / "counts.json")
    first = Rating(item_index=1, rating=5, timestamp=START + SECOND)
    second = Rating(item_index=2, rating=4, timestamp=START + 2 * SECOND, is_implied=user == "new")
    writer = OnlineUsersWriter(settings, FEATURES)
    expected = row_after(writer.row(user) or unknown_user(), [first, second], FEATURES)

    store = writer._current_store()
    write_view, calls = store.online_write_batch, 0

    def loses_its_answer(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls <= written:
            write_view(*arguments)
        if calls >= min(written, 3 if user == "new" else 2):
            raise sqlite3.OperationalError("disk I/O error")

    store.online_write_batch = loses_its_answer
    with pytest.raises(FeatureStoreError, match="disk I/O error"):
        writer.push({user: [first]})
    calls = 0
    with pytest.raises(FeatureStoreError, match="disk I/O error"):
        writer.push({user: [first, second]})
    store.online_write_batch = write_view
    writer.push({user: [first, second]})
    assert_same_row(writer.row(user), expected)


def test_a_push_again_keeps_what_a_materialization_brought_meanwhile(
    settings: FeatureStoreSettings, tmp_path: Path
) -> None:
    world = build(tmp_path, some_events())
    materialize_features(settings, features=world["features"], output=tmp_path / "counts.json")
    writer = OnlineUsersWriter(settings, FEATURES)
    store = writer._current_store()
    rating = Rating(item_index=1, rating=5, timestamp=START + SECOND)

    def fails(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    store.online_write_batch = fails
    with pytest.raises(FeatureStoreError):
        writer.push({"u1": [rating]})
    newer = build(tmp_path / "newer", [*some_events(), event(9999, "u1", "c", 10**9, 2.0)])
    materialize_features(settings, features=newer["features"], output=tmp_path / "counts.json")
    materialized = OnlineUsers(settings).row("u1")
    assert materialized is not None
    writer.push({"u1": [rating]})
    assert_same_row(writer.row("u1"), row_after(materialized, [rating], FEATURES))


def assert_same_row(row: UserRow | None, expected: UserRow) -> None:
    assert row is not None
    for name in ("user_statistics", "history", "history_ratings", "seen"):
        np.testing.assert_allclose(getattr(row, name), getattr(expected, name), rtol=1e-6, err_msg=name)
