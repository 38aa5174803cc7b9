"""What the gateway refuses, each in one sentence."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient
from gateway_world import ASK, Rows

Start = Callable[..., TestClient]


WRONG = [
    (ASK, {"user_id": "ann", "k": 0}, 422, "'k'"),
    (ASK, {"user_id": "ann", "k": 13}, 422, "this release answers 1 to 12 items"),
    (ASK, {"user_id": "ann", "k": 10**30}, 422, "'k'"),
    (ASK, {"user_id": "ann", "k": "3"}, 422, "'k'"),
    (ASK, {"user_id": "ann", "colour": 3}, 422, "unknown field 'colour'"),
    (ASK, {"k": 3}, 422, "'user_id' is missing"),
    (ASK, {"user_id": ""}, 422, "'user_id'"),
    (ASK, {"user_id": "x" * 257}, 422, "'user_id'"),
    (ASK, {"user_id": "a\tb"}, 422, "control character"),
    (ASK, {"user_id": "a\x00"}, 422, "control character"),
    (ASK, {"user_id": "ann", "diversity": 1.5}, 422, "'diversity'"),
    (ASK, {"user_id": "ann", "release": 4}, 404, "release 4 is not there; kept are 1, 2, 3"),
    (
        ASK,
        {"user_id": "ann", "release": 1},
        409,
        "release 1 is kept and does not answer now; answering: 2, 3",
    ),
    (ASK, [], 422, "JSON object"),
    ("/v1/rank", {"user_id": "ann", "item_ids": []}, 422, "'item_ids'"),
    ("/v1/rank", {"user_id": "ann", "item_ids": ["i1", "i99"]}, 422, "does not know item 'i99'"),
]


@pytest.mark.parametrize(("path", "body", "status", "said"), WRONG)
def test_a_mistake_is_answered_with_one_sentence(
    client: TestClient, path: str, body: object, status: int, said: str
) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert said in error["message"]
    assert error["code"]
    assert "\n" not in error["message"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"", 422),
        (b'{"user_id": "\xff\xfe"}', 400),
        (b'{"user_id": "\\ud800"}', 422),
        (b'{"user_id": "a", "k": ' + b"9" * 5000 + b"}", 400),
        (b'{"user_id": "a", "diversity": NaN}', 422),
        (b"[" * 20_000, 400),
    ],
)
def test_what_is_no_json_in_utf_8_is_a_mistake_too(client: TestClient, body: bytes, status: int) -> None:
    answer = client.post(ASK, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("application/vnd.shop+json", 200),
        ("text/plain", 422),
        ("application/octet-stream", 422),
        ("", 422),
    ],
)
def test_a_body_is_read_as_what_its_content_type_says(
    client: TestClient, content_type: str, status: int
) -> None:
    answer = client.post(ASK, content=b'{"user_id": "ann"}', headers={"Content-Type": content_type})
    assert answer.status_code == status
    assert status == 200 or "not a JSON object" in answer.json()["error"]["message"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("path", [ASK, "/v1/rank"])
def test_any_encoding_of_json_is_read(client: TestClient, path: str, encoding: str) -> None:
    items = ', "item_ids": ["i4"]' if path == "/v1/rank" else ""
    body = f'{{"user_id": "ann"{items}}}'.encode(encoding)
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200


def test_a_caller_that_goes_away_amid_its_body_is_no_failure_of_ours(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    heard = iter(
        [{"type": "http.request", "body": b'{"user', "more_body": True}, {"type": "http.disconnect"}]
    )
    sent: list[dict] = []

    async def receive() -> dict:
        return next(heard)

    async def send(message: dict) -> None:
        sent.append(message)

    headers = [(name.lower().encode(), value.encode()) for name, value in client.headers.items()]
    scope: dict = {
        "type": "http",
        "method": "POST",
        "path": ASK,
        "raw_path": ASK.encode(),
        "query_string": b"",
    }
    scope["headers"] = [*headers, (b"content-type", b"application/json")]
    asyncio.run(client.app(scope, receive, send))
    assert sent[0]["status"] == 400
    assert "failed" not in caplog.text


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/v1/items/i99/similar", 404, "does not know item 'i99'"),
        ("/v1/items/i9%2F9/similar", 404, "does not know item 'i9/9'"),
        ("/v1/users/", 422, "'user_id'"),
        ("/v1/users", 422, "field 'user_id' is missing"),
        ("/v1/users?user_id=", 422, "'user_id'"),
        ("/v1/users?user_id=%FF", 400, "not UTF-8"),
        ("/v1/items/similar?item_id=..", 404, "does not know item '..'"),
        ("/v1/items/similar?item_id=a%01", 422, "control character"),
        ("/v1/items/%FF/similar", 400, "not UTF-8"),
        ("/v1/items?q=%FF", 400, "not UTF-8"),
        ("/v1/items/a%01/similar", 422, "control character"),
        ("/v1/items/i1/similar?k=0", 422, "'k'"),
        ("/v1/items/i1/similar?k=20", 422, "field 'k' is 20; this release answers 1 to 19 items"),
        ("/v1/items/similar?item_id=i1&k=1000", 422, "field 'k' is 1000; this release answers 1 to 19 items"),
        ("/v1/items/similar?item_id=i1&k=1001", 422, "'k'"),
        ("/v1/items?limit=101", 422, "'limit'"),
        ("/v1/nothing", 404, "no such path"),
        ("/v1/rank", 405, "GET is not answered here"),
    ],
)
def test_a_wrong_path_is_answered_with_one_sentence(
    client: TestClient, path: str, status: int, said: str
) -> None:
    answer = client.get(path)
    assert (answer.status_code, said in answer.json()["error"]["message"]) == (status, True)


def test_a_body_that_is_too_large_is_refused_before_it_is_read(start: Start) -> None:
    client = start(max_body_bytes=2000)
    assert client.post(ASK, content=b" " * 2001).status_code == 413
    sent = 0

    def stream() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1000
            yield b" " * 1000

    answer = client.post(ASK, content=stream(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "too_large"


def test_without_a_key_or_with_a_wrong_one_nothing_under_v1_answers(client: TestClient) -> None:
    for path in ("/v1/items", "/v1/nothing"):
        assert client.get(path, headers={"X-API-Key": "wrong"}).status_code == 401
        assert client.get(path, headers={"X-API-Key": ""}).status_code == 401
    assert client.get("/healthz", headers={"X-API-Key": ""}).status_code == 200


def test_who_asks_too_often_is_told_when_to_come_again(start: Start) -> None:
    client = start(requests_per_s=0.1, burst=2)
    assert [client.get("/v1/items").status_code for _ in range(3)] == [200, 200, 429]
    assert 1 <= int(client.get("/v1/items").headers["Retry-After"]) <= 10


def test_no_more_requests_are_worked_on_than_may_be(start: Start, store: Rows) -> None:
    client = start(max_in_flight=1, store_deadline_ms=10_000)
    asked, answer = threading.Event(), threading.Event()
    plain = store.row

    def slow(user: str):
        asked.set()
        answer.wait(10)
        return plain(user)

    store.row = slow  # type: ignore[method-assign]
    with ThreadPoolExecutor() as pool:
        first = pool.submit(client.post, ASK, json={"user_id": "ann"})
        assert asked.wait(10)
        refused = client.post(ASK, json={"user_id": "bob"})
        answer.set()
        assert first.result().status_code == 200
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert client.post(ASK, json={"user_id": "bob"}).status_code == 200
