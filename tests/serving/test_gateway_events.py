"""Feedback events: what is refused, what is written, what the user's row shows afterwards."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from small_world import LIKED, build, some_events

from leanrec.config import (
    DataSettings,
    FeatureSettings,
    FeatureStoreSettings,
    GatewaySettings,
    ReleaseSettings,
    RunSettings,
    ValidationSettings,
)
from leanrec.data.event_log import read_events
from leanrec.data.pseudonyms import pseudonym_of
from leanrec.evaluation.online import online_metrics
from leanrec.features.online import OnlineUsers
from leanrec.features.store import materialize_features
from serving.gateway.events import Feedback, router
from serving.gateway.faults import explain_faults
from serving.gateway.metrics import Metrics
from serving.gateway.request_id import derive_key, make

KEY = b"a key of sixteen bytes or more"
REQUEST_KEY = derive_key(KEY)
INDEX = {"a": 1, "b": 2, "c": 3, "d": 4}
USER = pseudonym_of("ada", KEY)


class World:
    """The route of events over a real log and a real online store."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "events"
        self.settings = RunSettings(
            name="test",
            data=DataSettings(source="synthetic", click_rating=3),
            validation=ValidationSettings(min_rating=1, max_rating=5),
            features=FeatureSettings(history_length=3, liked_threshold=LIKED),
            feature_store=FeatureStoreSettings(repository=str(folder / "store")),
            release=ReleaseSettings(repository=str(folder / "models")),
            gateway=GatewaySettings(store_deadline_ms=5000, store_pause_ms=50),
        )
        self.metrics = Metrics()
        self.forgotten: list[str] = []
        self.feedback = self.start()
        app = FastAPI()
        app.include_router(router(self))
        explain_faults(app)
        self.client = TestClient(app)

    def start(self) -> Feedback:
        return Feedback(
            self.settings,
            pseudonym_key=KEY,
            request_key=REQUEST_KEY,
            index_of=INDEX.get,
            forget=self.forgotten.append,
            metrics=self.metrics,
        )

    def post(self, *events: dict[str, Any]) -> Any:
        return self.client.post("/v1/events", json={"events": list(events)})

    def row(self) -> Any:
        return OnlineUsers(self.settings.feature_store).row(USER)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A materialized store."""
    folder = tmp_path_factory.mktemp("world")
    world = build(folder, some_events())
    settings = FeatureStoreSettings(repository=str(folder / "store"))
    materialize_features(settings, features=world["features"], output=folder / "counts.json")
    return folder / "store"


@pytest.fixture
def world(store: Path, tmp_path: Path) -> Iterator[World]:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "online.db").write_bytes((store / "online.db").read_bytes())
    world = World(tmp_path)
    with world.client:
        yield world
    asyncio.run(world.feedback.close())


def rating(name: str, item: str = "a", value: float = 4.5, **more: Any) -> dict[str, Any]:
    return {"event_id": name, "user_id": "ada", "item_id": item, "type": "rating", "rating": value, **more}


def click(name: str, **more: Any) -> dict[str, Any]:
    return {"event_id": name, "user_id": "ada", "item_id": "a", "type": "click", **more}


def test_an_event_is_written_under_a_pseudonym_and_shows_in_the_row(world: World) -> None:
    request_id = make(7, REQUEST_KEY)
    answer = world.post(rating("e1", request_id=request_id, timestamp="2026-01-31T12:00:00+01:00"))
    assert answer.json() == {"accepted": 1, "duplicates": 0, "unknown_items": 0}
    (line,) = read_events(world.log).to_pylist()
    assert line["timestamp"] == datetime(2026, 1, 31, 11, tzinfo=UTC)
    assert (line["user_id"], line["release"], line["rating"]) == (USER, 7, 4.5)
    assert line["request_id"] == request_id
    assert "ada" not in "".join(path.read_text() for path in world.log.glob("*/*.jsonl"))
    assert world.row().history.tolist() == [1]
    assert USER in world.forgotten
    text = world.metrics.text().decode()
    assert 'leanrec_feedback_total{release="7",type="rating"} 1.0' in text


def test_a_repeated_event_counts_once(world: World) -> None:
    assert world.post(rating("e1")).json()["accepted"] == 1
    answer = world.post(rating("e1"), rating("e2"), rating("e2")).json()
    assert (answer["accepted"], answer["duplicates"]) == (1, 2)
    assert read_events(world.log)["rating"].to_pylist() == [4.5, 4.5]
    assert world.row().user_statistics[0] == 2


@pytest.mark.parametrize("restarted", [False, True])
def test_an_id_that_comes_again_with_other_content_is_refused_whole(world: World, restarted: bool) -> None:
    first = rating("e1", timestamp="2026-01-31T12:00:00Z", request_id=make(7, REQUEST_KEY))
    assert world.post(first, rating("e2")).json()["accepted"] == 2
    if restarted:
        asyncio.run(world.feedback.close())
        world.feedback = world.start()
    answer = world.post(rating("e3"), {**first, "item_id": "b", "rating": 2})
    assert answer.status_code == 409
    assert answer.json()["error"] == {
        "code": "conflict",
        "message": "event 'e1' (events.1): its id was taken before, with another `item_id` and `rating`,"
        " so no event of this call was taken; give each event an id of its own",
    }
    assert "with another `user_id`," in world.post({**first, "user_id": "eve"}).text
    assert "with another `timestamp`," in world.post({**first, "timestamp": "2026-01-31T12:00:01Z"}).text
    # What says the same is no other content: the time in another zone, or left out; the rating as an integer.
    same = {**first, "timestamp": "2026-01-31T13:00:00+01:00"}
    assert world.post(first, same, rating("e2"), {**first, "timestamp": None}).json()["duplicates"] == 4
    assert world.post(rating("e4", value=4), rating("e4", value=4.0)).json()["duplicates"] == 1
    assert sorted(read_events(world.log)["event_id"].to_pylist()) == ["e1", "e2", "e4"]
    assert world.row().user_statistics[0] == 3


def test_a_clock_ahead_makes_no_other_content_of_a_repetition(world: World) -> None:
    ahead = rating("e1", timestamp=(datetime.now(UTC) + timedelta(seconds=1.5)).isoformat())
    assert world.post(ahead).json()["accepted"] == 1
    assert world.post(ahead).json()["duplicates"] == 1
    time.sleep(1.5)
    assert world.post(ahead).json()["duplicates"] == 1


def test_a_click_counts_as_the_data_has_it_and_an_impression_does_not(world: World) -> None:
    assert world.post({**click("e1"), "type": "impression"}).json()["accepted"] == 1
    assert world.row() is None
    assert world.post(click("e2"), rating("e3", item="b")).json()["accepted"] == 2
    assert world.post(click("e4"), click("e5", item_id="b")).json()["accepted"] == 2
    row = world.row()
    assert (row.history.tolist(), row.history_ratings.tolist()) == ([1, 2], [3, 4.5])


def test_a_restart_remembers_what_was_taken(world: World) -> None:
    assert world.post(rating("e1")).json()["accepted"] == 1
    asyncio.run(world.feedback.close())
    world.feedback = world.start()
    assert world.post(rating("e1"), rating("e2")).json()["duplicates"] == 1
    assert world.row().user_statistics[0] == 2


def test_an_unknown_item_is_taken_and_stays_out_of_the_row(world: World) -> None:
    answer = world.post(rating("e1", item="never heard of"), rating("e2"))
    assert answer.json() == {"accepted": 2, "duplicates": 0, "unknown_items": 1}
    assert sorted(read_events(world.log)["item_id"].to_pylist()) == ["a", "never heard of"]
    assert world.row().seen.tolist() == [1]


def test_a_foreign_request_id_credits_nobody(world: World) -> None:
    assert world.post(click("e1", request_id="7.made-up.id")).json()["accepted"] == 1
    assert read_events(world.log)["release"].to_pylist() == [None]
    assert 'leanrec_feedback_total{release="none",type="click"} 1.0' in world.metrics.text().decode()


def test_an_answer_that_credits_nobody_is_learned_from_all_the_same(world: World) -> None:
    request_id = make(7, REQUEST_KEY, is_credited=False)
    shown = {**click("e1", request_id=request_id), "type": "impression"}
    answer = world.post(shown, click("e2", request_id=request_id), rating("e3", "b", request_id=request_id))
    assert answer.json() == {"accepted": 3, "duplicates": 0, "unknown_items": 0}
    log = read_events(world.log)
    assert log["release"].to_pylist() == [None] * 3
    assert set(log["request_id"].to_pylist()) == {request_id}
    assert world.row().history.tolist() == [1, 2]
    assert 'release="7"' not in world.metrics.text().decode()
    figures = online_metrics(log)
    assert figures["releases"] == {}
    assert (figures["uncredited"]["events"], figures["uncredited"]["clicks"]) == (3, 1)


FUTURE = (datetime.now(UTC) + timedelta(days=2)).isoformat()


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        (rating("e1", timestamp=FUTURE), "event 'e1' (events.1): its timestamp"),
        (rating("e1", timestamp="1970-01-01T00:00:00Z"), "before 1990"),
        (rating("e1", timestamp="0001-01-01T00:00:00+14:00"), "not a time in ISO 8601"),
        (rating("e1", timestamp="yesterday"), "field 'events.1.timestamp'"),
        (rating("e1", timestamp=1), "field 'events.1.timestamp'"),
        (rating("e1", value=5.5), "its rating 5.5 is not within 1 to 5"),
        (rating("e1", value=None), "it is a rating without one"),
        (click("e1", rating=3), "a click has no rating"),
        (click("e1", type="purchase"), "field 'events.1.type'"),
        (click(""), "field 'events.1.event_id'"),
        (click("e\n1"), "control character"),
        (click("e1", user_id="x" * 257), "field 'events.1.user_id'"),
        (click("e1", colour="red"), "unknown field"),
    ],
)
def test_a_wrong_event_is_named_and_its_call_is_not_taken(
    world: World, event: dict[str, Any], sentence: str
) -> None:
    answer = world.post(click("good"), event)
    assert answer.status_code == 422
    assert sentence in answer.json()["error"]["message"]
    assert len(read_events(world.log)) == 0


def test_a_clock_a_little_ahead_is_let_pass(world: World) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=30)).isoformat()
    assert world.post(click("e1", timestamp=soon)).status_code == 200


def test_a_call_is_of_1_to_500_events(world: World) -> None:
    assert world.post().status_code == 422
    assert world.post(*(click(f"e{n}") for n in range(501))).status_code == 422
    assert world.post(*(click(f"e{n}") for n in range(500))).json()["accepted"] == 500


def test_calls_at_the_same_time_count_every_event_of_a_user_once(world: World) -> None:
    async def send() -> list[Any]:

        transport = httpx.ASGITransport(world.client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            bodies = [{"events": [rating(f"e{n % 20}", item="abcd"[n % 4])]} for n in range(40)]
            return await asyncio.gather(*(client.post("/v1/events", json=body) for body in bodies))

    answers = [answer.json() for answer in asyncio.run(send())]
    assert sum(answer["accepted"] for answer in answers) == 20
    assert sum(answer["duplicates"] for answer in answers) == 20
    assert world.row().user_statistics.tolist() == [20, 20, 4.5]


def test_a_store_that_fails_loses_no_event_and_catches_up(world: World, tmp_path: Path) -> None:
    patient, world.feedback._settings = (
        world.settings,
        world.settings.model_copy(update={"gateway": GatewaySettings(store_deadline_ms=50)}),
    )
    online = tmp_path / "store" / "online.db"
    online.rename(tmp_path / "away.db")
    assert world.post(rating("e1")).json()["accepted"] == 1
    assert world.post(rating("e2", item="b")).json()["accepted"] == 1
    assert len(read_events(world.log)) == 2
    (tmp_path / "away.db").rename(online)
    world.feedback._settings = patient
    assert world.post(rating("e3", item="c")).json()["accepted"] == 1
    assert world.row().history.tolist() == [1, 2, 3]
    assert 'leanrec_feedback_pushes_total{outcome="ok"} 3.0' in world.metrics.text().decode()


def test_a_full_disk_is_a_503_and_the_events_may_be_sent_again(world: World) -> None:

    assert world.post(click("e1")).status_code == 200
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
        answer = world.post(*(click(f"e{n}") for n in range(50)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert answer.status_code == 503
    assert "no event was taken" in answer.json()["error"]["message"]
    assert str(world.log) not in answer.text
    assert read_events(world.log)["event_id"].to_pylist() == ["e1"]
    answer = world.post(*(click(f"e{n}") for n in range(50)))
    assert answer.json() == {"accepted": 49, "duplicates": 1, "unknown_items": 0}
