"""What a gateway answers while one change of the stable release follows another faster than Triton loads."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from gateway_world import ASK, PSEUDONYM_KEY, Rows, headers_of, publish, row, settings_of
from test_gateway_candidate import TritonByHand
from tritonclient.grpc import service_pb2 as proto
from waiting import wait_for

from leanrec.data.pseudonyms import KEY_VARIABLE
from leanrec.errors import ServingError
from leanrec.release.promote import promote, rollback
from leanrec.release.repository import ModelRepository
from leanrec.triton import Answer
from leanrec.triton.async_client import NotServedError
from leanrec.triton.replicas import Served
from serving.gateway.app import create_app


class Loading(TritonByHand):
    """A Triton that serves the versions `served` and no other, whatever the files say."""

    def __init__(self) -> None:
        super().__init__()
        self.served = {2}
        self.served_rankers: set[int] | None = None
        """Versions of the ranker, where they are others."""
        self.failure: Callable[[], ServingError] = lambda: NotServedError("not here")

    async def infer(self, encoded: bytes, served: Served, ends: float) -> Answer:
        request = proto.ModelInferRequest.FromString(encoded)
        others = self.served_rankers if request.model_name == "ranker" else None
        if int(request.model_version) not in (self.served if others is None else others):
            raise self.failure()
        return await super().infer(encoded, served, ends)

    async def are_ready(self, model: str, version: int, timeout_s: float = 1.0) -> list[bool | None]:
        return [version in self.served]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Release 2 is stable and served alone; 1 and 3 are kept."""
    for version in (1, 2, 3):
        publish(tmp_path, version)
    rollback(tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def client(models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv(KEY_VARIABLE, PSEUDONYM_KEY)
    settings = settings_of(models.parent)
    store = Rows({"ann": row(3)})
    with TestClient(create_app(settings, lambda: store), headers=headers_of(settings)) as client:
        gateway = client.app.state.gateway  # type: ignore[attr-defined]
        gateway.releases._triton = gateway.triton = Loading()
        yield client


def has_followed(client: TestClient) -> None:
    """Returns once the gateway has seen what the repository says."""
    releases = client.app.state.gateway.releases  # type: ignore[attr-defined]
    wait_for(lambda: releases._stamp == releases._stamp_now())


def triton_of(client: TestClient) -> Loading:
    return client.app.state.gateway.triton  # type: ignore[attr-defined]


def asked(client: TestClient) -> tuple[int, str | None]:
    """The release that answers a recommendation and a ranking, and how it is degraded; both are the same."""
    found = client.post(ASK, json={"user_id": "ann", "k": 3}).json()
    titles = {item["title"].split()[0] for item in found["items"]}
    assert titles == {f"v{found['release']}"}
    ranked = client.post("/v1/rank", json={"user_id": "ann", "item_ids": ["i20"]}).json()
    assert (ranked["release"], ranked["degraded"]) == (found["release"], found["degraded"])
    return found["release"], found["degraded"]


def test_a_rollback_followed_at_once_by_a_promotion_is_answered_by_what_triton_serves(
    client: TestClient, models: Path
) -> None:
    assert asked(client) == (2, None)
    promote(models, 1)
    promote(models, 2)
    has_followed(client)
    triton_of(client).served = {1}  # it took up the first change, and has yet to load the second
    assert asked(client) == (1, None)
    triton_of(client).served = {1, 2}
    assert asked(client) == (2, None)


def test_a_state_that_the_gateway_never_saw_is_answered_too(client: TestClient, models: Path) -> None:
    releases = client.app.state.gateway.releases  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(releases, "_stamp_now", lambda: releases._stamp)  # it does not look
        promote(models, 3)
        promote(models, 1)
        rollback(models)
    assert 1 not in ModelRepository(models).required_state().served
    has_followed(client)
    triton_of(client).served = {1}
    assert asked(client) == (1, None)


def test_a_triton_that_goes_over_between_two_questions_is_asked_again(
    client: TestClient, models: Path
) -> None:
    promote(models, 1)
    promote(models, 2)
    has_followed(client)
    triton = triton_of(client)
    triton.served = {1}

    def goes_over() -> NotServedError:
        triton.served = {2}  # while it answered that it lacks release 2; the next one asked for is 1
        return NotServedError("not here")

    triton.failure = goes_over
    assert asked(client) == (2, None)


def test_a_triton_that_fails_is_not_asked_for_every_release_of_late(client: TestClient, models: Path) -> None:
    promote(models, 1)
    promote(models, 2)
    has_followed(client)
    triton_of(client).served = {1}
    triton_of(client).failure = lambda: ServingError("no answer within 0.25 s")
    assert asked(client) == (2, "popular_items")


def test_what_was_stable_long_ago_leaves_the_memory(
    client: TestClient, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(models, 3)
    triton_of(client).served = {3}
    has_followed(client)
    promote(models, 1)
    triton_of(client).served = {1}
    releases = client.app.state.gateway.releases  # type: ignore[attr-defined]
    wait_for(lambda: asked(client) == (1, None) and set(releases._loaded) == {1, 2, 3})
    monkeypatch.setattr("serving.gateway.releases.LATELY", timedelta())
    wait_for(lambda: set(releases._loaded) == {1})
    triton_of(client).served = {3}
    assert asked(client) == (1, "popular_items")


def test_more_items_of_a_category_are_had_of_a_recommender_whose_ranker_is_gone_already(
    client: TestClient, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"user_id": "ann", "k": 9, "categories": ["Odd"], "exclude_items": ["i19"]}
    with_ranker = client.post(ASK, json=wanted).json()
    promote(models, 1)
    has_followed(client)
    triton_of(client).served_rankers = {1}
    found = client.post(ASK, json=wanted).json()
    assert (found["release"], found["degraded"]) == (2, None)
    assert [item["item_id"] for item in found["items"]] == [f"i{n}" for n in range(17, 0, -2)]
    assert [item["item_id"] for item in with_ranker["items"]] == [f"i{n}" for n in range(17, 0, -2)]
    monkeypatch.setattr("serving.gateway.recommender.MAX_HIDDEN", 19)  # as if the catalogue were a large one
    assert client.post(ASK, json=wanted).json()["degraded"] == "popular_items"
