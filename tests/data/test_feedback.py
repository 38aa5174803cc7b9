"""Feedback: which acts become events, which are set aside, and what is new since a release."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leanrec.config import DataSettings, RunSettings
from leanrec.data.event_log import FEEDBACK, EventLog, FeedbackEvent, read_events
from leanrec.data.feedback import Watermark, join_feedback, read_joined, read_summary
from leanrec.data.ingest import ingest
from leanrec.schema import EVENTS, ITEMS

START = datetime(2026, 1, 1, tzinfo=UTC)
ITEM_TABLE = pa.Table.from_pylist(
    [{"item_id": name, "title": name, "categories": [], "release_year": None} for name in "abc"], schema=ITEMS
)
BASE = pa.Table.from_pylist(
    [{"event_id": "base", "user_id": "ann", "item_id": "a", "timestamp": START, "rating": 3.0}], schema=EVENTS
)


def act(event_id: str, user: str, item: str, kind: str, rating: float | None = None, second: int = 1):
    return FeedbackEvent(
        event_id=event_id,
        user_id=user,
        item_id=item,
        type=kind,
        rating=rating,
        timestamp=START + timedelta(seconds=second),
    )


@pytest.mark.parametrize(
    ("acts", "joined"),
    [
        ([act("1", "bob", "a", "rating", 5.0)], [("1", 5.0)]),
        ([act("1", "bob", "a", "click")], [("1", 4.5)]),
        ([act("1", "bob", "a", "impression")], []),
        ([act("1", "bob", "zzz", "rating", 5.0)], []),
        ([act("2", "bob", "a", "click", second=9), act("1", "bob", "a", "click", second=2)], [("1", 4.5)]),
        ([act("1", "bob", "a", "click"), act("2", "bob", "a", "rating", 1.0, second=9)], [("2", 1.0)]),
        ([act("1", "ann", "a", "click")], []),  # the base events have her rating
        ([act("1", "ann", "a", "rating", 5.0)], [("1", 5.0)]),  # she has changed her mind
        ([act("1", "ann", "a", "rating", 5.0, second=0)], []),  # the base event, told again
        ([act("base", "bob", "b", "rating", 5.0)], []),  # exported into the base events since
    ],
)
def test_what_becomes_an_event(tmp_path, acts, joined):
    with EventLog(tmp_path / "log", "test") as log:
        log.append(acts)
    events, came, summary = join_feedback(BASE, ITEM_TABLE, tmp_path / "log", click_rating=4.5)
    new = events.filter(pa.compute.not_equal(events["event_id"], "base"))
    assert list(zip(new["event_id"].to_pylist(), new["rating"].to_pylist(), strict=True)) == joined
    assert came["event_id"].to_pylist() == [event_id for event_id, _ in joined]
    assert summary.num_joined == len(joined) and summary.num_events == len(acts)
    assert summary.unknown_items == (("zzz",) if acts[0].item_id == "zzz" else ())
    assert events.schema.equals(EVENTS)


def test_an_event_of_a_clock_that_was_never_set_is_set_aside_and_counted(tmp_path):
    unset = replace(act("1", "bob", "a", "rating", 5.0), timestamp=datetime(1970, 1, 1, tzinfo=UTC))
    with EventLog(tmp_path / "log", "test") as log:
        log.append([unset, act("2", "bob", "b", "rating", 5.0)])
    _, came, summary = join_feedback(BASE, ITEM_TABLE, tmp_path / "log", click_rating=4.5)
    assert came["event_id"].to_pylist() == ["2"]
    assert (summary.num_events, summary.num_untimely, summary.num_joined) == (2, 1, 1)
    assert summary.watermark is not None


def test_a_missing_log_is_an_empty_one(tmp_path):
    events, _, summary = join_feedback(BASE, ITEM_TABLE, tmp_path / "none", click_rating=4.0)
    assert events.equals(BASE) and summary.watermark is None and summary.num_events == 0


def received(*seconds: int) -> pa.Table:
    """A log whose events were received at these seconds."""
    rows = [
        {
            "event_id": f"e{second}",
            "user_id": "u",
            "item_id": "a",
            "type": "rating",
            "timestamp": START,
            "received_at": START + timedelta(seconds=second),
        }
        for second in seconds
    ]
    return pa.Table.from_pylist(rows, schema=FEEDBACK)


@pytest.mark.parametrize(
    ("mark", "log", "rows", "num_new"),
    [
        (Watermark(), (1, 2, 3), 3, 3),
        (Watermark(received_at=START + timedelta(seconds=3), num_events=3), (1, 2, 3), 0, 0),
        (Watermark(received_at=START + timedelta(seconds=3), num_events=3), (1, 2, 3, 4, 5), 2, 2),
        # An event of a slower clock came into the log after a later one was read.
        (Watermark(received_at=START + timedelta(seconds=3), num_events=2), (1, 2, 3), 0, 1),
        # Old days were taken away.
        (Watermark(received_at=START + timedelta(seconds=3), num_events=3), (4,), 1, 1),
        (Watermark(received_at=START + timedelta(seconds=3), num_events=3), (), 0, 0),
    ],
)
def test_what_is_new_since_a_watermark(mark, log, rows, num_new):
    later, count = mark.new_events(received(*log))
    assert (len(later), count) == (rows, num_new)


def test_a_release_remembers_how_far_it_read(tmp_path, csv_files):
    """Ingest writes the watermark; a release's lineage carries it; nothing of that log is new afterwards."""
    with EventLog(tmp_path / "log", "test") as log:
        log.append([act("1", "a" * 32, "001", "rating", 5.0), act("2", "a" * 32, "002", "impression")])
    settings = DataSettings(
        source="csv",
        **{name: str(path) for name, path in csv_files.items()},
        user_attributes=("gender",),
        feedback=str(tmp_path / "log"),
        click_rating=4.0,
    )
    paths = {name: tmp_path / "out" / name for name in ("events", "items", "users", "feedback")}
    summary = ingest(settings, key=b"k" * 32, **paths)
    assert summary.num_events == 4 and summary.feedback.by_type == {"impression": 1, "click": 0, "rating": 1}
    users = pq.read_table(paths["users"])
    assert {"user_id": "a" * 32, "gender": None} in users.to_pylist(), "a user new to the users table is one"
    mark = Watermark.of_lineage({"feedback": read_summary(paths["feedback"])})
    assert mark.new_events(read_events(tmp_path / "log"))[1] == 0
    assert read_joined(paths["feedback"], None).to_pylist() == ["1"]
    assert read_joined(paths["feedback"], mark.received_at).to_pylist() == []


def test_a_click_is_worth_a_like_unless_somebody_says_otherwise():
    def settings(data: dict, **sections) -> DataSettings:
        given = {"source": "synthetic", "feedback": "log", **data}
        stores = {"feature_store": {"repository": "f"}, "release": {"repository": "r"}}
        return RunSettings.parse({"name": "x", "data": given, **stores, **sections}).data

    assert settings({}).click_rating == 4.0
    assert settings({}, features={"liked_threshold": 3.0}).click_rating == 3.0
    assert settings({"click_rating": 2.0}).click_rating == 2.0
    assert settings({"feedback": None}).click_rating is None
