"""What a gateway does where a part of its own fails: at the start, in a request, beside the requests."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from gateway_world import ASK, PSEUDONYM_KEY, Rows, headers_of, publish, row, settings_of
from waiting import wait_for

from leanrec.data.pseudonyms import KEY_VARIABLE
from leanrec.errors import ConfigError, ReleaseError
from leanrec.release.promote import advance, offer, rollback
from serving.gateway.api import RecommendationAnswer, RecommendationRequest
from serving.gateway.app import create_app
from serving.gateway.gateway import Gateway
from serving.gateway.users import User


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A gateway on release 1, where no Triton answers."""
    monkeypatch.setenv(KEY_VARIABLE, PSEUDONYM_KEY)
    publish(tmp_path, 1)
    settings = settings_of(tmp_path)
    headers = headers_of(settings)
    with TestClient(create_app(settings, lambda: Rows({"ann": row(1)}))) as client:
        client.headers.update(headers)
        yield client


def test_a_gateway_that_cannot_start_says_why_and_closes_what_it_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, PSEUDONYM_KEY)
    settings = settings_of(tmp_path)
    gateway = Gateway(settings)

    async def start() -> None:
        try:
            await gateway.start()
        finally:
            await gateway.stop()

    with pytest.raises(ConfigError, match="API keys"):
        asyncio.run(start())
    headers_of(settings)
    with pytest.raises(ReleaseError, match="it holds no release"):
        asyncio.run(start())
    with pytest.raises(RuntimeError, match="shutdown"):
        gateway.users._pool.submit(print)


def test_what_nobody_expected_is_an_error_of_the_common_form_and_logged_by_its_request(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("what nobody expected")

    monkeypatch.setattr(client.app.state.gateway.releases, "targets", fail)  # type: ignore[attr-defined]
    with caplog.at_level(logging.ERROR):
        answer = client.post(ASK, json={"user_id": "ann"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert answer.headers["Cache-Control"] == "no-store"
    assert f"request {answer.headers['X-Request-Id']} failed" in caplog.text
    assert "what nobody expected" in caplog.text
    assert 'outcome="error",release="none"' in client.get("/metrics").text
    assert client.app.state.gateway.in_flight == 0  # type: ignore[attr-defined]


def test_the_repository_is_followed_on_after_a_failure_that_nobody_expected(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    releases = client.app.state.gateway.releases  # type: ignore[attr-defined]
    monkeypatch.setattr("serving.gateway.releases.RETRY_S", 0.01)

    def fail() -> None:
        raise KeyError("what nobody expected")

    with monkeypatch.context() as failing:
        failing.setattr(releases, "_stamp_now", fail)
        wait_for(lambda: "cannot be followed" in caplog.text)
    publish(tmp_path, 2)
    wait_for(lambda: client.get("/v1/releases").json()["versions"] == [1, 2])


def test_a_replay_that_fails_in_an_unforeseen_way_is_an_error_of_the_candidate_and_the_last_of_none(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gateway = client.app.state.gateway  # type: ignore[attr-defined]
    publish(tmp_path, 2)
    rollback(tmp_path / "models")
    offer(tmp_path / "models", 2)
    advance(tmp_path / "models", "shadow", shadow_percent=100, reason="for the test")
    wait_for(lambda: gateway.releases.shadow("1.any") is not None)

    async def fail(*_: object) -> None:
        raise IndexError("what nobody expected")

    monkeypatch.setattr(gateway.recommender, "from_model", fail)
    request = RecommendationRequest(user_id="ann")
    answer = RecommendationAnswer.model_validate(client.post(ASK, json={"user_id": "stranger"}).json())
    for _ in range(2):
        gateway.shadow.offer(request, answer, User(row=row(1), read_at=0))
    wait_for(lambda: 'leanrec_shadow_total{outcome="error",release="2"} 2.0' in client.get("/metrics").text)
