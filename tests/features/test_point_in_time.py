"""An event never sees itself, its tie, or what came after: held against a plain computation."""

import tempfile
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_world import ITEM_IDS, Event, build, event, past, rows_of, some_events, statistics

from leanrec.config import FeatureStoreSettings
from leanrec.features.point_in_time import join_features
from leanrec.features.store import build_training_set

HISTORY_LENGTH = 3
MICROSECOND = timedelta(microseconds=1)

drawn_events = st.lists(
    st.tuples(
        st.sampled_from(["u1", "u2"]),
        st.sampled_from(ITEM_IDS[:3]),
        st.integers(0, 6),  # microseconds: ties and neighbours one microsecond apart are common
        st.sampled_from([1.0, 3.5, 4.0, 5.0]),
    ),
    min_size=1,
    max_size=14,
).map(lambda drawn: [event(n, *values) for n, values in enumerate(drawn)])

slowly = settings(deadline=None, database=None, derandomize=True)


@settings(slowly, max_examples=20)
@given(drawn_events)
def test_each_table_sums_up_exactly_the_past(events: list[Event]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        features = build(Path(folder), events)["features"]
        index = {r["item_id"]: r["item_index"] for r in rows_of(features / "items.parquet")}

        activity = rows_of(features / "user_activity.parquet")
        assert len(activity) == len({(e.user_id, e.timestamp) for e in events})
        for row in activity:
            before = past(events, "user_id", row["user_id"], row["event_timestamp"])
            assert row["event_timestamp"] == before[-1].timestamp + MICROSECOND
            recent = before[-HISTORY_LENGTH:]
            assert row["history"] == [index[e.item_id] for e in recent]
            assert row["history_ratings"] == [e.rating for e in recent]
            assert_statistics(row, before)

        of_items = rows_of(features / "item_statistics.parquet")
        assert len(of_items) == len({(e.item_id, e.timestamp) for e in events})
        for row in of_items:
            assert_statistics(row, past(events, "item_id", row["item_id"], row["event_timestamp"]))

        for row in rows_of(features / "user_seen.parquet"):
            mine = [e for e in events if e.user_id == row["user_id"]]
            assert row["seen"] == sorted({index[e.item_id] for e in mine})
            assert row["event_timestamp"] == max(e.timestamp for e in mine)


@settings(slowly, max_examples=5)
@given(drawn_events)
def test_the_training_set_holds_what_was_known_just_before_each_event(events: list[Event]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = build(Path(folder), events)
        rows = training_set(Path(folder), paths)
        assert [r["event_id"] for r in rows] == [
            e.event_id for e in sorted(events, key=lambda e: (e.timestamp, e.event_id))
        ]
        index = {r["item_id"]: r["item_index"] for r in rows_of(paths["features"] / "items.parquet")}
        by_id = {e.event_id: e for e in events}
        for row in rows:
            this = by_id[row["event_id"]]
            mine = past(events, "user_id", this.user_id, this.timestamp)
            assert row["history"] == [index[e.item_id] for e in mine[-HISTORY_LENGTH:]]
            assert row["history_ratings"] == [e.rating for e in mine[-HISTORY_LENGTH:]]
            assert row["user_statistics"] == pytest.approx(statistics(mine))
            assert (row["item_index"], row["rating"]) == (index[this.item_id], this.rating)
            assert row["liked"] == (this.rating >= 4.0)


def test_slices_of_time_answer_as_the_whole_does(tmp_path: Path) -> None:
    events = some_events()
    paths = build(tmp_path, events)
    settings = FeatureStoreSettings(repository=str(tmp_path / "store"))
    asked = pq.read_table(paths["events"], columns=["event_id", "user_id", "item_id", "timestamp"])
    asked = asked.rename_columns(["event_id", "user_id", "item_id", "event_timestamp"])
    whole = join_features(settings, asked, paths["features"])
    sliced = join_features(settings, asked, paths["features"], events_a_slice=20)
    assert whole.num_rows == len(events)
    assert sliced.sort_by("event_id").equals(whole.sort_by("event_id"))


def training_set(folder: Path, paths: dict[str, Path]) -> list[dict]:
    build_training_set(
        FeatureStoreSettings(repository=str(folder / "store")),
        events=paths["events"],
        features=paths["features"],
        output=folder / "training_set.parquet",
    )
    return rows_of(folder / "training_set.parquet")


def assert_statistics(row: dict, events: list[Event]) -> None:
    assert (row["num_events"], row["num_liked"], row["mean_rating"]) == pytest.approx(statistics(events))
