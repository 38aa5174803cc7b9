"""What the gateway's application answers on a real release, where no Triton does."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from gateway_world import ASK, Rows
from prometheus_client.parser import text_string_to_metric_families

from leanrec.release.rollout.observation import Samples, traffic_of
from leanrec.release.rollout.traffic import Traffic

Start = Callable[..., TestClient]


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
    assert answer.json()["request_id"].startswith("3.uncredited.")  # no model answered
    refused = client.post(ASK, json={"user_id": "ann", "k": 0})
    assert "X-Release" not in refused.headers
    assert refused.headers["X-Request-Id"].startswith("0.")
    assert client.get("/healthz").headers["X-Request-Id"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_load_balancers_may_ask_for_the_head_alone(client: TestClient, path: str) -> None:
    assert client.head(path).status_code == client.get(path).status_code == 200


def test_items_are_found_by_title_and_by_nearness(client: TestClient) -> None:
    found = client.get("/v1/items", params={"q": "TITLE 1", "limit": 3}).json()
    assert (found["release"], ids(found)) == (3, ["i18", "i19", "i16"])
    similar = client.get("/v1/items/i1/similar", params={"k": 2}).json()
    assert client.get("/v1/items/similar", params={"k": 2, "item_id": "i1"}).json() == similar
    assert len(ids(similar)) == 2
    assert "i1" not in ids(similar)
    assert len(ids(client.get("/v1/items/i1/similar", params={"k": 19}).json())) == 19


def test_a_small_catalogue_answers_all_its_other_items_where_no_number_is_asked_for(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "/v1/items/similar?item_id=i1"
    assert len(ids(client.get(url).json())) == 10
    releases = client.app.state.gateway.releases  # type: ignore[attr-defined]
    whole = releases.stable.catalogue
    for num_items, most in ((7, 5), (2, 0)):
        few = replace(whole, item_ids=whole.item_ids[:num_items], vectors=whole.vectors[:num_items])
        monkeypatch.setattr(releases, "stable", replace(releases.stable, catalogue=few))
        assert len(ids(client.get(url).json())) == most
        refused = client.get(f"{url}&k={most + 1}")
        assert (refused.status_code, f"'k' is {most + 1}" in refused.text) == (422, True)


def test_the_page_is_told_what_a_rating_may_be(client: TestClient) -> None:
    assert client.get("/v1/releases").json()["ratings"] == [0, 5]


def test_a_user_is_shown_newest_first_and_a_stranger_as_unknown(client: TestClient) -> None:
    user = client.get("/v1/users/ann").json()
    assert user["known"]
    assert [(item["title"], item["rating"]) for item in user["history"]][:2] == [
        ("v3 Title 18", 5.0),
        ("v3 Title 19", 5.0),
    ]
    assert client.get("/v1/users/stranger").json()["known"] is False
    assert client.get("/v1/users/a%2Fb").json()["history"][0]["title"] == "v3 Title 3"
    for id_ in ("ann", "a/b", "stranger"):
        given = client.get("/v1/users", params={"user_id": id_})
        assert given.json() == client.get(f"/v1/users/{quote(id_, safe='')}").json()


def test_it_stays_ready_without_triton_and_says_what_is_missing(client: TestClient) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"ready": True, "triton": False, "store": True, "draining": False}


def test_it_is_not_ready_once_it_is_about_to_end(start: Start) -> None:
    client = start()
    client.app.state.gateway.drain()  # type: ignore[attr-defined]
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["draining"] is True


def test_who_chooses_his_release_is_no_evidence_about_it(start: Start) -> None:
    client = start()
    assert client.post(ASK, json={"user_id": "ann", "release": 3}).json()["release"] == 3
    assert traffic_of(_samples(client)) == {}
    client.post(ASK, json={"user_id": "ann"})
    traffic = traffic_of(_samples(client))[3]
    assert (traffic.errors, traffic.requests) == (1, 1)


def test_popular_items_in_a_releases_stead_are_no_evidence_of_its_speed(start: Start) -> None:
    client = start()
    assert client.post(ASK, json={"user_id": "ann"}).json()["degraded"] == "popular_items"
    assert traffic_of(_samples(client))[3].seconds.total() == 0
    assert (
        f'_seconds_count{{outcome="degraded",release="3",route="{ASK}"}} 1.0' in client.get("/metrics").text
    )


def test_what_a_stranger_gets_is_no_evidence_of_a_release_that_was_not_asked(start: Start) -> None:
    client = start()
    for filters in ({}, {"categories": ["no such category"]}):  # nor is it an empty answer of the release
        answer = client.post(ASK, json={"user_id": "stranger", **filters}).json()
        assert (answer["known"], answer["degraded"]) == (False, None)
    assert traffic_of(_samples(client)) == {}
    assert f'_seconds_count{{outcome="unknown",release="3",route="{ASK}"}} 2.0' in client.get("/metrics").text


@pytest.mark.parametrize(
    ("outcome", "counted"), [("ok", 1), ("stale", 1), ("empty", 1), ("degraded", 0), ("unknown", 0)]
)
def test_what_the_release_answered_itself_is_evidence(start: Start, outcome: str, counted: int) -> None:
    client = start()
    metrics = client.app.state.gateway.metrics  # type: ignore[attr-defined]
    metrics.requests.labels(ASK, "3", "stable", outcome).inc()
    metrics.seconds.labels(ASK, "3", outcome).observe(0.002)
    traffic = traffic_of(_samples(client)).get(3, Traffic())
    assert (traffic.requests, traffic.seconds.total()) == (counted, counted)


def test_rankings_are_evidence_of_their_own_and_degraded_ones_none(start: Start) -> None:
    client = start()
    metrics = client.app.state.gateway.metrics  # type: ignore[attr-defined]
    assert client.post("/v1/rank", json={"user_id": "ann", "item_ids": ["i4"]}).json()["degraded"]
    metrics.requests.labels("/v1/rank", "3", "stable", "ok").inc()
    metrics.seconds.labels("/v1/rank", "3", "ok").observe(0.002)
    traffic = traffic_of(_samples(client))[3]
    assert (traffic.rank.requests, traffic.rank.errors, traffic.rank.seconds.total()) == (2, 1, 1)
    assert (traffic.requests, traffic.seconds.total()) == (0, 0)


def test_why_a_release_failed_is_logged_once(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    client = start()
    with caplog.at_level(logging.WARNING, "serving.gateway.failures"):
        for _ in range(3):
            client.post(ASK, json={"user_id": "ann"})
    told = [record.message for record in caplog.records if record.name == "serving.gateway.failures"]
    assert len(told) == 1
    assert told[0].startswith("release 3 (stable) did not answer: nothing answers at ")


def _samples(client: TestClient) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }


def test_the_metrics_tell_releases_apart(start: Start) -> None:
    client = start()
    client.post(ASK, json={"user_id": "ann"})
    client.post(ASK, json={"user_id": "stranger"})
    client.post(ASK, json={"user_id": "ann", "k": 0})
    text = client.get("/metrics").text

    def counted(outcome: str) -> str:
        return f'leanrec_requests_total{{outcome="{outcome}",release="3",route="{ASK}",stage="stable"}} 1.0'

    assert counted("degraded") in text
    assert counted("unknown") in text
    assert counted("error") in text
    assert f'leanrec_refused_total{{route="{ASK}",status="422"}} 1.0' in text
    assert f'leanrec_request_seconds_count{{outcome="unknown",release="3",route="{ASK}"}} 1.0' in text
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
            for status in ("401", "422", "429", "500", "503"):
                schema = call["responses"][status]["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorAnswer"}
    assert api["components"]["schemas"]["RecommendationRequest"]["examples"]


def test_openapi_says_which_calls_need_the_key_and_where_it_goes(client: TestClient) -> None:
    api = client.get("/openapi.json").json()
    (name,) = api["components"]["securitySchemes"]
    scheme = api["components"]["securitySchemes"][name]
    assert (scheme["type"], scheme["in"]) == ("apiKey", "header")
    anonymous = {scheme["name"]: ""}
    for path, calls in api["paths"].items():
        for method, call in calls.items():
            asked = client.request(method, path.replace("{", "").replace("}", ""), headers=anonymous)
            assert (asked.status_code == 401) == (call.get("security") == [{name: []}]), path
    known = {scheme["name"]: client.headers["X-API-Key"]}
    assert client.get("/v1/releases", headers=known).status_code == 200


def test_a_failure_of_the_gateway_is_declared_for_every_call(client: TestClient) -> None:
    api = client.get("/openapi.json").json()
    for calls in api["paths"].values():
        for call in calls.values():
            schema = call["responses"]["500"]["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/ErrorAnswer"}
