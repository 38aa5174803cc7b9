"""The gateway's application in this process, on a real release, where no Triton answers."""

import json
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from gateway_world import ASK, PSEUDONYM_KEY, Rows, headers_of, publish, row, settings_of

from leanrec.data.pseudonyms import KEY_VARIABLE
from serving.gateway.app import create_app
from serving.gateway.request_id import derive_key, release_of

ID_KEY = derive_key(PSEUDONYM_KEY.encode())
Start = Callable[..., TestClient]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Releases 1 to 3; 3 is stable, 2 is served beside it, 1 is kept."""
    folder = tmp_path_factory.mktemp("gateway")
    for version in (1, 2, 3):
        publish(folder, version)
    return folder


@pytest.fixture
def store() -> Rows:
    return Rows({"ann": row(1, seen=(20, 19, 18)), "bob": row(2)})


@pytest.fixture
def start(folder: Path, store: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setenv(KEY_VARIABLE, PSEUDONYM_KEY)
    with ExitStack() as running:

        def start_one(**gateway: object) -> TestClient:
            settings = settings_of(folder, deadline_ms=300, event_log=str(tmp_path), **gateway)
            headers = headers_of(settings)
            client = TestClient(create_app(settings, lambda: store), raise_server_exceptions=False)
            client.headers.update(headers)
            return running.enter_context(client)

        yield start_one


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    """A gateway for the tests that leave nothing behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, PSEUDONYM_KEY)
        settings = settings_of(folder, deadline_ms=300)
        headers = headers_of(settings)
        store = Rows({"ann": row(1, seen=(20, 19, 18)), "a/b": row(2, seen=(3,))})
        with TestClient(create_app(settings, lambda: store), raise_server_exceptions=False) as client:
            client.headers.update(headers)
            yield client


def ids(answer: dict) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def test_without_triton_a_known_user_gets_popular_items_filtered_alike(client: TestClient) -> None:
    # Likes grow with the item's number; ann has seen 18 to 20.
    answer = client.post(ASK, json={"user_id": "ann", "k": 3}).json()
    assert (answer["known"], answer["degraded"], answer["release"]) == (True, "popular_items", 3)
    assert ids(answer) == ["i16", "i17", "i14"]
    assert [item["rank"] for item in answer["items"]] == [1, 2, 3]
    assert answer["items"][0]["title"] == "v3 Title 16"
    assert ids(client.post(ASK, json={"user_id": "ann", "k": 2, "exclude_seen": False}).json()) == [
        "i20",
        "i18",
    ]
    wanted = {"user_id": "ann", "k": 3, "categories": ["Odd"], "exclude_items": ["i17", "no such item"]}
    assert ids(client.post(ASK, json=wanted).json()) == ["i15", "i13", "i11"]


def test_a_stranger_gets_popular_items_which_is_no_degrade(client: TestClient) -> None:
    answer = client.post(ASK, json={"user_id": "stranger", "k": 2}).json()
    assert (answer["known"], answer["degraded"], ids(answer)) == (False, None, ["i20", "i18"])


def test_without_the_store_a_user_never_met_gets_popular_items_and_the_answer_says_so(
    start: Start, store: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    store.broken = True
    client = start()
    answer = client.post(ASK, json={"user_id": "ann", "k": 2}).json()
    assert (answer["known"], answer["degraded"], ids(answer)) == (False, "popular_items", ["i20", "i18"])
    gone = client.get("/v1/users/ann")
    assert (gone.status_code, gone.headers["Retry-After"]) == (503, "1")
    # The reason is for whoever runs the gateway, once, and not for callers.
    assert caplog.text.count("the store is gone") == 1
    assert "the store is gone" not in gone.text


def test_rank_answers_likes_in_the_order_asked_where_triton_is_gone(client: TestClient) -> None:
    answer = client.post("/v1/rank", json={"user_id": "ann", "item_ids": ["i4", "i20"]}).json()
    assert answer["degraded"] == "popular_items"
    assert ids(answer) == ["i4", "i20"]
    assert [item["score"] for item in answer["items"]] == [0.2, 1.0]
    assert [item["like"] for item in answer["items"]] == [None, None]


def test_every_answer_names_its_request_and_its_release(client: TestClient) -> None:
    answer = client.post(ASK, json={"user_id": "ann"})
    assert answer.headers["X-Release"] == "3"
    assert answer.headers["X-Request-Id"] == answer.json()["request_id"]
    assert release_of(answer.json()["request_id"], ID_KEY) == 3
    refused = client.post(ASK, json={"user_id": "ann", "k": 0})
    assert "X-Release" not in refused.headers
    assert release_of(refused.headers["X-Request-Id"], ID_KEY) is None
    assert client.get("/healthz").headers["X-Request-Id"]


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
    ("path", "status", "said"),
    [
        ("/v1/items/i99/similar", 404, "does not know item 'i99'"),
        ("/v1/items/i9%2F9/similar", 404, "does not know item 'i9/9'"),
        ("/v1/users/", 422, "'user_id'"),
        ("/v1/items/%FF/similar", 400, "not UTF-8"),
        ("/v1/items?q=%FF", 400, "not UTF-8"),
        ("/v1/items/a%01/similar", 422, "control character"),
        ("/v1/items/i1/similar?k=0", 422, "'k'"),
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


def test_items_are_found_by_title_and_by_nearness(client: TestClient) -> None:
    found = client.get("/v1/items", params={"q": "TITLE 1", "limit": 3}).json()
    assert (found["release"], ids(found)) == (3, ["i18", "i19", "i16"])
    similar = client.get("/v1/items/i1/similar", params={"k": 2}).json()
    assert len(ids(similar)) == 2
    assert "i1" not in ids(similar)
    assert len(ids(client.get("/v1/items/i1/similar", params={"k": 1000}).json())) == 19


def test_a_user_is_shown_newest_first_and_a_stranger_as_unknown(client: TestClient) -> None:
    user = client.get("/v1/users/ann").json()
    assert user["known"]
    assert [(item["title"], item["rating"]) for item in user["history"]][:2] == [
        ("v3 Title 18", 5.0),
        ("v3 Title 19", 5.0),
    ]
    assert client.get("/v1/users/stranger").json()["known"] is False
    assert client.get("/v1/users/a%2Fb").json()["history"][0]["title"] == "v3 Title 3"


def test_it_is_not_ready_without_triton_and_says_why(client: TestClient) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"ready": False, "triton": False, "store": True, "draining": False}


def test_the_metrics_tell_releases_apart(start: Start) -> None:
    client = start()
    client.post(ASK, json={"user_id": "ann"})
    client.post(ASK, json={"user_id": "stranger"})
    client.post(ASK, json={"user_id": "ann", "k": 0})
    text = client.get("/metrics").text

    def counted(outcome: str) -> str:
        return f'leanrec_requests_total{{outcome="{outcome}",release="3",route="{ASK}",stage="stable"}} 1.0'

    assert counted("degraded") in text
    assert counted("ok") in text
    assert counted("error") in text
    assert f'leanrec_refused_total{{route="{ASK}",status="422"}} 1.0' in text
    assert f'leanrec_request_seconds_count{{release="3",route="{ASK}"}} 2.0' in text
    assert 'leanrec_user_cache_total{result="miss"} 3.0' in text  # nobody, asked at the start, too


def test_the_access_log_tells_what_happened_and_neither_who_nor_the_key(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "leanrec.gateway.access"):
        client.get("/v1/users/ann-from-berlin")
        client.post(ASK, json={"user_id": "ann-from-berlin"})
    lines = [json.loads(r.message) for r in caplog.records if r.name == "leanrec.gateway.access"]
    assert [(line["route"], line["status"]) for line in lines] == [("/v1/users/{user_id}", 200), (ASK, 200)]
    assert lines[1]["release"] == 3
    assert lines[1]["caller"] == "local"
    assert "ann-from-berlin" not in caplog.text
    assert client.headers["X-API-Key"] not in caplog.text


def test_openapi_names_an_error_of_the_common_form_for_every_call(client: TestClient) -> None:
    api = client.get("/openapi.json").json()
    paths = {path: calls for path, calls in api["paths"].items() if path.startswith("/v1/")}
    assert {ASK, "/v1/rank", "/v1/items", "/v1/users/{user_id}", "/v1/releases"} <= paths.keys()
    for calls in paths.values():
        for call in calls.values():
            for status in ("401", "422", "429", "503"):
                schema = call["responses"][status]["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorAnswer"}
    assert api["components"]["schemas"]["RecommendationRequest"]["examples"]
