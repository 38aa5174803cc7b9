"""What a gateway does where a part of its own fails: at the start, in a request, beside the requests."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from gateway_world import ASK, PSEUDONYM_KEY, Rows, headers_of, publish, row, settings_of

from leanrec.data.pseudonyms import KEY_VARIABLE
from leanrec.errors import ConfigError, ReleaseError
from serving.gateway.app import create_app
from serving.gateway.gateway import Gateway


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A gateway on release 1, where no Triton answers."""
    monkeypatch.setenv(KEY_VARIABLE, PSEUDONYM_KEY)
    publish(tmp_path, 1)
    settings = settings_of(tmp_path, deadline_ms=300)
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
