"""What a gateway makes of a candidate that fails: a Triton by hand computes, refuses and errs."""

import asyncio
import math
from collections.abc import Iterator
from uuid import uuid4

import numpy as np
import pytest
from fastapi.testclient import TestClient
from gateway_world import ASK, PSEUDONYM_KEY, Rows, headers_of, publish, row, settings_of
from tiny_release import SPEC, expected_scores, top_k
from tritonclient.grpc import service_pb2 as proto
from tritonclient.utils import triton_to_np_dtype
from waiting import wait_for

from leanrec.data.pseudonyms import KEY_VARIABLE
from leanrec.errors import ServingError
from leanrec.release.promote import advance, offer, rollback
from leanrec.triton import Answer
from leanrec.triton.async_client import GoneError, NotServedError
from leanrec.triton.replicas import Served
from serving.gateway.app import create_app
from serving.gateway.request_id import credited_release


class TritonByHand:
    """Answers as the tiny graphs do; `fault` says what the candidate does instead."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.asked: list[tuple[str, float]] = []
        """Model, and seconds that it was given."""

    async def infer(self, encoded: bytes, served: Served, ends: float) -> Answer:
        self.asked.append((served[0], ends - asyncio.get_running_loop().time()))
        request = proto.ModelInferRequest.FromString(encoded)
        version = int(request.model_version)
        inputs = {
            tensor.name: np.frombuffer(content, triton_to_np_dtype(tensor.datatype)).reshape(tensor.shape)
            for tensor, content in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        if self.fault == "down":
            raise GoneError("nobody listens")
        if self.fault == "starting":
            raise NotServedError("not yet")
        if self.fault == "stalled":
            raise ServingError("no answer within 1 s")
        fault = self.fault if request.model_name.endswith("_candidate") else ""
        if fault == "not served":
            raise NotServedError("not here")
        if fault in ("slow", "hanging"):  # slow: not within half of the time
            left = ends - asyncio.get_running_loop().time()
            await asyncio.sleep(left if fault == "hanging" else 0.75 * left)
        if fault in ("silent", "hanging"):
            raise ServingError("no answer within 1 s")
        if request.model_name.startswith("ranker"):
            bias = np.linspace(0, 1, SPEC.num_items, dtype=np.float32)[inputs["candidates"]]
            outputs = dict.fromkeys(("score", "like", "rating"), bias * np.float32(version))
        else:
            outputs = top_k(inputs, float(version))
        if fault == "not finite":
            outputs = {**outputs, "score": np.full_like(outputs["score"], math.nan)}
        return Answer(outputs=outputs, version=version + (fault == "another version"))

    async def are_ready(self, model: str, version: int, timeout_s: float = 1.0) -> list[bool | None]:
        return [True]

    async def close(self) -> None:
        return None


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Release 1 is stable, 2 is a candidate for everybody."""
    folder = tmp_path_factory.mktemp("candidate")
    publish(folder, 1)
    publish(folder, 2)
    rollback(folder / "models")
    offer(folder / "models", 2)
    advance(folder / "models", "canary", percent=100, reason="for the test")
    settings = settings_of(folder)
    headers = headers_of(settings)
    store = Rows({"ann": row(3, seen=(20,))})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, PSEUDONYM_KEY)
        with TestClient(create_app(settings, lambda: store)) as client:
            client.headers.update(headers)
            yield client


def counted(client: TestClient, route: str, outcome: str) -> float:
    metrics = client.app.state.gateway.metrics  # type: ignore[attr-defined]
    return metrics.requests.labels(route, "2", "candidate", outcome)._value.get()


def impressions_of(client: TestClient, release: str) -> float:
    metrics = client.app.state.gateway.metrics  # type: ignore[attr-defined]
    return metrics.feedback.labels(release, "impression")._value.get()


def test_a_candidate_that_answers_is_what_its_users_get(client: TestClient) -> None:
    client.app.state.gateway.releases._triton = client.app.state.gateway.triton = TritonByHand()  # type: ignore[attr-defined]
    answer = client.post(ASK, json={"user_id": "ann", "k": 3}).json()
    assert (answer["release"], answer["stage"], answer["degraded"]) == (2, "candidate", None)
    right = sorted(expected_scores({"user_index": np.array([[3]]), "seen": np.array([[20]])}, 2.0)[0])[::-1]
    assert [item["score"] for item in answer["items"]] == pytest.approx(right[:3])
    assert {item["title"].split()[0] for item in answer["items"]} == {"v2"}


@pytest.mark.parametrize(
    ("fault", "route", "asked", "credited"),
    [
        ("", ASK, {"user_id": "ann"}, 2),
        ("", "/v1/rank", {"user_id": "ann", "item_ids": ["i4"]}, 2),
        ("", "/v1/rank", {"user_id": "stranger", "item_ids": ["i4"]}, 2),  # the ranker answers for him, too
        ("silent", ASK, {"user_id": "ann"}, 1),  # the stable release answers instead
        ("", ASK, {"user_id": "stranger"}, None),
        ("", ASK, {"user_id": "ann", "release": 1}, None),
        ("", ASK, {"user_id": "ann", "release": 2}, None),
        ("down", ASK, {"user_id": "ann"}, None),
        ("down", "/v1/rank", {"user_id": "ann", "item_ids": ["i4"]}, None),
    ],
)
def test_feedback_credits_a_release_whose_model_answered_and_which_nobody_chose(
    client: TestClient, fault: str, route: str, asked: dict, credited: int | None
) -> None:
    gateway = client.app.state.gateway  # type: ignore[attr-defined]
    gateway.releases._triton = gateway.triton = TritonByHand(fault)
    answer = client.post(route, json=asked).json()
    counters = {name: impressions_of(client, name) for name in ("1", "2", "none")}
    shown = {"event_id": uuid4().hex, "user_id": asked["user_id"], "item_id": "i4", "type": "impression"}
    events = [{**shown, "request_id": answer["request_id"]}]
    assert client.post("/v1/events", json={"events": events}).json()["accepted"] == 1
    grown = {name: impressions_of(client, name) - before for name, before in counters.items()}
    assert grown == {"1": 0, "2": 0, "none": 0} | {str(credited or "none"): 1}
    assert credited_release(answer["request_id"], gateway.request_id_key) == credited
    assert answer["request_id"].startswith(f"{answer['release']}.")


@pytest.mark.parametrize("fault", ["not served", "silent", "not finite", "another version"])
def test_where_the_candidate_fails_the_stable_release_answers_and_the_failure_is_counted(
    client: TestClient, fault: str
) -> None:
    client.app.state.gateway.triton = TritonByHand(fault)  # type: ignore[attr-defined]
    before = counted(client, ASK, "error"), counted(client, "/v1/rank", "error")
    answer = client.post(ASK, json={"user_id": "ann", "k": 3}).json()
    assert (answer["release"], answer["stage"], answer["degraded"]) == (1, "stable", None)
    assert [item["item_id"] for item in answer["items"]] == ["i19", "i18", "i17"]
    assert {item["title"].split()[0] for item in answer["items"]} == {"v1"}
    ranked = client.post("/v1/rank", json={"user_id": "ann", "item_ids": ["i20"]}).json()
    assert (ranked["release"], ranked["stage"], ranked["items"][0]["score"]) == (1, "stable", 1.0)
    assert (counted(client, ASK, "error"), counted(client, "/v1/rank", "error")) == (
        before[0] + 1,
        before[1] + 1,
    )


@pytest.mark.parametrize(
    ("fault", "given_s"),
    [
        # 20 s for all; what is asked answers, or fails, at once.
        ("", {"recommender_candidate": 20, "ranker_candidate": 20}),
        ("silent", {"recommender_candidate": 20, "recommender": 20, "ranker": 20}),
    ],
)
def test_all_that_is_asked_for_one_request_ends_within_one_deadline(
    client: TestClient, fault: str, given_s: dict[str, float]
) -> None:
    triton = client.app.state.gateway.triton = TritonByHand(fault)  # type: ignore[attr-defined]
    client.post(ASK, json={"user_id": "ann", "k": 10, "categories": ["Odd"]})
    assert [model for model, _ in triton.asked] == list(given_s)
    left = [seconds for _, seconds in triton.asked]
    assert all(seconds <= most for seconds, most in zip(left, given_s.values(), strict=True))
    # The same end, and not one a question: what comes later has less left.
    assert left[-1] < left[-2]


@pytest.mark.parametrize(("fault", "outcome"), [("slow", "ok"), ("hanging", "error")])
def test_the_stable_release_answers_before_a_slow_candidate_whose_answer_counts_as_what_it_is(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, fault: str, outcome: str
) -> None:
    gateway = client.app.state.gateway  # type: ignore[attr-defined]
    gateway.triton = TritonByHand(fault)
    monkeypatch.setattr(gateway.recommender, "deadline", lambda: asyncio.get_running_loop().time() + 1)
    for route, asked in ((ASK, {"k": 3}), ("/v1/rank", {"item_ids": ["i20"]})):
        before = {name: counted(client, route, name) for name in ("ok", "error")}
        answer = client.post(route, json={"user_id": "ann", **asked}).json()
        assert (answer["release"], answer["stage"], answer["degraded"]) == (1, "stable", None)
        wait_for(lambda: counted(client, route, outcome) == before[outcome] + 1)  # noqa: B023
        assert {name: counted(client, route, name) for name in before} == before | {
            outcome: before[outcome] + 1
        }


def test_a_candidate_s_failure_counts_though_the_stable_release_does_not_know_the_item(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = client.app.state.gateway  # type: ignore[attr-defined]
    gateway.triton = TritonByHand("silent")
    monkeypatch.delitem(gateway.releases.stable.catalogue.index_of, "i20")
    before = counted(client, "/v1/rank", "error")
    refused = client.post("/v1/rank", json={"user_id": "ann", "item_ids": ["i20"]})
    assert refused.status_code == 422 and "release 1 does not know item 'i20'" in refused.text
    assert counted(client, "/v1/rank", "error") == before + 1


def test_a_pinned_candidate_that_fails_is_not_answered_for_by_another(client: TestClient) -> None:
    client.app.state.gateway.triton = TritonByHand("silent")  # type: ignore[attr-defined]
    answer = client.post(ASK, json={"user_id": "ann", "k": 3, "release": 2}).json()
    assert (answer["release"], answer["degraded"]) == (2, "popular_items")
    assert {item["title"].split()[0] for item in answer["items"]} == {"v2"}


def test_without_the_store_rank_answers_likes_and_no_figures_of_a_stranger(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = client.app.state.gateway  # type: ignore[attr-defined]
    gateway.triton = TritonByHand()
    monkeypatch.setattr(gateway.users._store, "broken", True)
    monkeypatch.setattr(gateway.users, "_closed_until", 0.0)
    ranked = client.post("/v1/rank", json={"user_id": "never met", "item_ids": ["i4", "i20"]}).json()
    assert (ranked["known"], ranked["degraded"], ranked["release"]) == (False, "popular_items", 1)
    assert [(item["score"], item["like"]) for item in ranked["items"]] == [(0.2, None), (1.0, None)]


@pytest.mark.parametrize(("fault", "blamed"), [("down", 0), ("starting", 0), ("stalled", 1)])
def test_where_none_answers_a_candidate_is_to_blame_for_its_silence_and_for_no_triton_that_is_gone(
    client: TestClient, fault: str, blamed: int
) -> None:
    gateway = client.app.state.gateway  # type: ignore[attr-defined]
    gateway.releases._triton = gateway.triton = TritonByHand(fault)
    for route, asked in ((ASK, {"k": 3}), ("/v1/rank", {"item_ids": ["i20"]})):
        before = counted(client, route, "error")
        stable = gateway.metrics.requests.labels(route, "1", "stable", "error")
        errors = stable._value.get()
        answer = client.post(route, json={"user_id": "ann", **asked}).json()
        assert (answer["release"], answer["degraded"]) == (1, "popular_items")
        assert counted(client, route, "error") == before + blamed
        assert stable._value.get() == errors + 1


def test_a_candidate_that_cannot_be_read_keeps_no_gateway_from_starting(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, PSEUDONYM_KEY)
    monkeypatch.setattr("serving.gateway.releases.RETRY_S", 0.01)
    publish(tmp_path, 1)
    publish(tmp_path, 2)
    rollback(tmp_path / "models")
    items = tmp_path / "models" / "recommender" / "2" / "release" / "items.parquet"
    whole = items.read_bytes()
    offer(tmp_path / "models", 2)
    advance(tmp_path / "models", "canary", percent=100, reason="for the test")
    items.write_bytes(b"rot")
    settings = settings_of(tmp_path)
    store = Rows({"ann": row(3, seen=(20,))})
    with TestClient(create_app(settings, lambda: store), headers=headers_of(settings)) as client:
        client.app.state.gateway.releases._triton = client.app.state.gateway.triton = TritonByHand()  # type: ignore[attr-defined]

        def stage() -> str:
            return client.post(ASK, json={"user_id": "ann", "k": 3}).json()["stage"]

        assert stage() == "stable"
        items.write_bytes(whole)
        wait_for(lambda: stage() == "candidate")
