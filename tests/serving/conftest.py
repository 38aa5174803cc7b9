"""A gateway's application in this process, on a real release, where no Triton answers."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from gateway_world import PSEUDONYM_KEY, Rows, headers_of, publish, row, settings_of

from leanrec.data.pseudonyms import KEY_VARIABLE
from serving.gateway.app import create_app

Start = Callable[..., TestClient]


@pytest.fixture(scope="module")
def gateway_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Releases 1 to 3; 3 is stable, 2 is served beside it, 1 is kept."""
    folder = tmp_path_factory.mktemp("gateway")
    for version in (1, 2, 3):
        publish(folder, version)
    return folder


@pytest.fixture
def store() -> Rows:
    return Rows({"ann": row(1, seen=(20, 19, 18)), "bob": row(2)})


@pytest.fixture
def start(
    gateway_folder: Path, store: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Start]:
    monkeypatch.setenv(KEY_VARIABLE, PSEUDONYM_KEY)
    with ExitStack() as running:

        def start_one(**gateway: object) -> TestClient:
            settings = settings_of(gateway_folder, event_log=str(tmp_path), **gateway)
            headers = headers_of(settings)
            client = TestClient(create_app(settings, lambda: store), raise_server_exceptions=False)
            client.headers.update(headers)
            return running.enter_context(client)

        yield start_one


@pytest.fixture(scope="module")
def client(gateway_folder: Path) -> Iterator[TestClient]:
    """A gateway for the tests that leave nothing behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, PSEUDONYM_KEY)
        settings = settings_of(gateway_folder)
        headers = headers_of(settings)
        store = Rows({"ann": row(1, seen=(20, 19, 18)), "a/b": row(2, seen=(3,))})
        with TestClient(create_app(settings, lambda: store), raise_server_exceptions=False) as client:
            client.headers.update(headers)
            yield client
