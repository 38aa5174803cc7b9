"""What a caller gives wrongly: the gateway's clients say so themselves, by name, and send nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import numpy as np
import pytest

from leanrec.errors import ServingError
from serving.client import AsyncGatewayClient, Event, GatewayClient

URL = "http://gateway.test/under/here"
SURROGATE = "\ud800"
EVENT = Event(event_id="e", user_id="u", item_id="i", type="click")
LATER = EVENT.model_copy(update={"timestamp": object()})
NOT_UTF8 = EVENT.model_copy(update={"user_id": SURROGATE})

Ask = Callable[[Any], Any]
REFUSED: list[tuple[Ask, str]] = [
    (lambda c: c.recommend(SURROGATE), r"user_id '\\ud800' is no id: .* in the raw data"),
    (lambda c: c.recommend(42), r"user_id 42 is no id"),
    (lambda c: c.recommend(None), r"user_id None is no id"),
    (lambda c: c.recommend(""), r"user_id '' is no id"),
    (lambda c: c.recommend("u" * 257), r"user_id 'u+ is no id: a str of 1 to 256"),
    (lambda c: c.user(SURROGATE), r"user_id '\\ud800' is no id"),
    (lambda c: c.user(42), r"user_id 42 is no id"),
    (lambda c: c.user(""), r"user_id '' is no id"),
    (lambda c: c.user("a\nb"), r"user_id 'a\\nb' is no id: .* no control character"),
    (lambda c: c.similar(SURROGATE), r"item_id '\\ud800' is no id"),
    (lambda c: c.similar(42), r"item_id 42 is no id"),
    (lambda c: c.similar(""), r"item_id '' is no id"),
    (lambda c: c.similar("i", k=True), r"k True is no whole number; give an int"),
    (lambda c: c.similar("i", k=2.0), r"k 2.0 is no whole number"),
    (lambda c: c.recommend("u", True), r"k True is no whole number"),
    (lambda c: c.recommend("u", np.True_), r"k np.True_ is no whole number"),
    (lambda c: c.recommend("u", 2.5), r"k 2.5 is no whole number"),
    (lambda c: c.recommend("u", "3"), r"k '3' is no whole number"),
    (lambda c: c.recommend("u", 10**5000), r"the call cannot be made \(Exceeds the limit"),
    (lambda c: c.recommend("u", diversity=float("nan")), r"diversity nan is no number from 0 to 1; give"),
    (lambda c: c.recommend("u", diversity=float("inf")), r"diversity inf is no number from 0 to 1"),
    (lambda c: c.recommend("u", diversity=-0.1), r"diversity -0.1 is no number from 0 to 1"),
    (lambda c: c.recommend("u", diversity=2), r"diversity 2 is no number from 0 to 1"),
    (lambda c: c.recommend("u", diversity="0.5"), r"diversity '0.5' is no number from 0 to 1"),
    (lambda c: c.recommend("u", diversity=np.array([0, 1])), r"diversity array.* is no number from 0 to 1"),
    (lambda c: c.recommend("u", diversity=10**5000), r"diversity \(int\) is no number from 0 to 1"),
    (lambda c: c.recommend("u", exclude_items="i1"), r"exclude_items 'i1' is not several; give a list"),
    (lambda c: c.recommend("u", exclude_items=None), r"exclude_items None is not several"),
    (lambda c: c.recommend("u", exclude_items=["i1", 2]), r"exclude_items\[1\] 2 is no id"),
    (lambda c: c.recommend("u", exclude_items=np.array([7])), r"exclude_items\[0\] np.int64\(7\) is no id"),
    (lambda c: c.recommend("u", categories={""}), r"categories\[0\] '' is no id"),
    (lambda c: c.recommend("u", explain="yes"), r"explain 'yes' is neither True nor False; give one"),
    (lambda c: c.recommend("u", release="2"), r"release '2' is no whole number"),
    (lambda c: c.recommend("u", diverse=1), r"no option 'diverse'; there are exclude_seen, .*, diversity,"),
    (lambda c: c.rank("u", "i1"), r"item_ids 'i1' is not several"),
    (lambda c: c.rank("u", [SURROGATE]), r"item_ids\[0\] '\\ud800' is no id"),
    (lambda c: c.search_items(SURROGATE), r"words '\\ud800' is no text in UTF-8; give a str"),
    (lambda c: c.search_items(b"w"), r"words b'w' is no text"),
    (lambda c: c.search_items("w", limit=1.5), r"limit 1.5 is no whole number"),
    (lambda c: c.send_events(EVENT), r"events Event\(.* is not several; give a list"),
    (lambda c: c.send_events([{"event_id": "e"}]), r"events\[0\] \{.* is no event; give an Event"),
    (lambda c: c.send_events([EVENT, LATER]), r"events\[1\].timestamp <object .* a time is text in ISO 8601"),
    (lambda c: c.send_events([NOT_UTF8]), r"events\[0\].user_id '\\ud800' does not pass: "),
]


class Wire:
    """In place of the network: notes what is sent, and answers what no gateway does."""

    def __init__(self) -> None:
        self.sent: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.sent.append(request)
        return httpx.Response(200, json={})


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    wire = Wire()
    for owner in (httpx.Client, httpx.AsyncClient):
        monkeypatch.setattr(owner, "_init_transport", lambda *_, **__: httpx.MockTransport(wire))
    return wire


def ask(ask: Ask) -> None:
    with GatewayClient(URL, "key") as client:
        ask(client)


def ask_async(ask: Ask) -> None:
    async def run() -> None:
        async with AsyncGatewayClient(URL, "key") as client:
            await ask(client)

    asyncio.run(run())


@pytest.mark.parametrize("way", [ask, ask_async])
@pytest.mark.parametrize(("wrong", "sentence"), REFUSED)
def test_what_no_request_can_carry_is_named_and_not_sent(
    wire: Wire, way: Callable[[Ask], None], wrong: Ask, sentence: str
) -> None:
    with pytest.raises(ServingError, match=sentence):
        way(wrong)
    assert wire.sent == []


@pytest.mark.parametrize("way", [ask, ask_async])
@pytest.mark.parametrize("id_", [".", "..", "a/b", "a/../b", "?k=1#x", "50%", "a&k=1", "a+b", " a ", "é"])
def test_an_id_leads_to_no_other_path(wire: Wire, way: Callable[[Ask], None], id_: str) -> None:
    for call in (lambda c: c.similar(id_, np.int64(3)), lambda c: c.user(id_)):
        with pytest.raises(ServingError, match="none of LeanRec's gateway"):
            way(call)
    similar, user = (request.url for request in wire.sent)
    assert (similar.path, dict(similar.params)) == (
        "/under/here/v1/items/similar",
        {"item_id": id_, "k": "3"},
    )
    assert (user.path, dict(user.params)) == ("/under/here/v1/users", {"user_id": id_})


@pytest.mark.parametrize(
    "url", ["", "localhost:1", "ftp://x", "http://", "http://x:y", "http://x\ud800", "http://x?y", None, 42]
)
def test_an_address_that_is_none_is_refused(url: Any) -> None:
    for client in (GatewayClient, AsyncGatewayClient):
        with pytest.raises(ServingError, match=r"^url .* is no address of a gateway; give it like http://"):
            client(url, "key")


@pytest.mark.parametrize("key", ["", " key", "k\nk", "schlüssel", None, 42])
def test_a_key_that_no_header_holds_is_refused_and_not_repeated(key: Any) -> None:
    with pytest.raises(ServingError, match=r"^the API key is empty or holds what no key holds; give one"):
        GatewayClient(URL, key)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), True, "2", None])
def test_a_deadline_that_is_none_is_refused(seconds: Any) -> None:
    with pytest.raises(ServingError, match=r"^timeout_s .* is no number of seconds above 0"):
        GatewayClient(URL, "key", timeout_s=seconds)


@pytest.mark.parametrize(
    ("way", "raised"),
    [
        (ask, httpx.DecodingError("broken gzip")),
        (ask, RuntimeError("closed")),
        (ask_async, OverflowError("port must be 0-65535")),
    ],
)
def test_whatever_the_library_raises_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, way: Callable[[Ask], None], raised: Exception
) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise raised

    for owner in (httpx.Client, httpx.AsyncClient):
        monkeypatch.setattr(owner, "_init_transport", lambda *_, **__: httpx.MockTransport(fail))
    with pytest.raises(ServingError, match=rf"here/v1/releases: the call cannot be made \({raised}\); look"):
        way(lambda c: c.releases())


def test_a_time_of_any_zone_is_sent_in_utc(wire: Wire) -> None:
    noon = datetime(2026, 1, 31, 14, tzinfo=timezone(timedelta(hours=2)))
    event = EVENT.model_copy(update={"timestamp": noon})
    with pytest.raises(ServingError, match="none of LeanRec's gateway"):
        ask(lambda c: c.send_events([event]))
    assert b'"timestamp":"2026-01-31T12:00:00Z"' in wire.sent[0].content
