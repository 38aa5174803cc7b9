"""Releases under load: clients hammer a real Triton while versions come, fail and go."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from restartable import Triton, ended
from tiny_release import top_k, user_row, write_artifacts
from waiting import running, wait_for

from leanrec.config import ReleaseSettings
from leanrec.errors import ServingError
from leanrec.release.promote import promote, rollback
from leanrec.release.publish import publish_release
from leanrec.triton import TritonClient
from leanrec.triton.embedded_server import EmbeddedServer, embedded_server

pytestmark = pytest.mark.integration

FACTORS = {1: 1.0, 2: 2.0, 3: 3.0}
"""Version -> factor of its scores, so that an answer shows which version computed it."""


@dataclass
class Load:
    """What the clients saw."""

    versions: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)


@contextmanager
def hammering(server: EmbeddedServer, num_clients: int = 3) -> Iterator[Load]:
    """Clients that ask without a pause and check every score against the version that answered."""
    load, stopping = Load(), threading.Event()

    def ask() -> None:
        inputs = user_row(batch=2)
        expected = {version: top_k(inputs, factor)["score"] for version, factor in FACTORS.items()}
        with TritonClient(server.grpc, timeout_s=60) as client:
            while not stopping.is_set():
                try:
                    answer = client.infer("recommender", inputs)
                except ServingError as error:
                    load.failures.append(str(error))
                    continue
                load.versions.append(answer.version)
                if not np.allclose(answer.outputs["score"], expected[answer.version], rtol=1e-5):
                    load.mixed.append(f"version {answer.version}: {answer.outputs['score']}")

    threads = [threading.Thread(target=ask) for _ in range(num_clients)]
    with running(threads, stopping):
        yield load


def test_versions_come_fail_and_go_and_no_request_notices(tmp_path: Path) -> None:
    """Publish 2, publish a broken 3, roll back, promote: one server, one stream of requests."""
    settings = ReleaseSettings(repository=str(tmp_path / "models"), keep=5)
    repository = Path(settings.repository)

    def publish(version: int) -> None:
        artifacts = write_artifacts(tmp_path / f"artifacts-{version}", FACTORS[version])
        if version == 3:
            (artifacts["compressed"] / "chosen" / "recommender" / "model.onnx").write_bytes(b"not a graph")
        output = tmp_path / f"release-{version}.json"
        published = publish_release(settings, name="tiny", **artifacts, lineage={}, output=output)
        assert published["version"] == version

    def served() -> list[int]:
        return server.loaded()["models"]["recommender"]

    publish(1)
    with embedded_server(repository, tmp_path / "server.json") as server, hammering(server) as load:
        wait_for(lambda: len(load.versions) > 20)

        publish(2)
        wait_for(lambda: load.versions[-1] == 2)
        wait_for(lambda: served() == [1, 2])
        with TritonClient(server.grpc, timeout_s=60) as client:
            assert client.infer("recommender", user_row(), version=1).version == 1

        publish(3)
        wait_for(lambda: server.loaded()["problem"] is not None)
        assert "recommender" in server.loaded()["problem"]
        assert "the older version goes on serving" in server.loaded()["problem"]
        seen = len(load.versions)
        wait_for(lambda: len(load.versions) > seen + 50)
        assert set(load.versions[seen:]) == {2}

        assert rollback(repository) == 2
        wait_for(lambda: served() == [2] and server.loaded()["problem"] is None)

        promote(repository, 1)
        wait_for(lambda: load.versions[-1] == 1)
        promote(repository, 2)
        wait_for(lambda: load.versions[-1] == 2)

    assert load.failures == []
    assert load.mixed == []
    assert set(load.versions) == {1, 2}


def test_a_server_does_not_start_on_a_broken_release_and_starts_after_the_rollback(tmp_path: Path) -> None:
    settings = ReleaseSettings(repository=str(tmp_path / "models"), keep=5)
    for version in (1, 2):
        artifacts = write_artifacts(tmp_path / f"artifacts-{version}")
        publish_release(settings, name="tiny", **artifacts, lineage={}, output=tmp_path / "release.json")
    (tmp_path / "models" / "ranker" / "2" / "model.onnx").write_bytes(b"")
    with (
        pytest.raises(ServingError, match="model ranker cannot be served; roll the release back"),
        embedded_server(tmp_path / "models", tmp_path / "server.json"),
    ):
        pass
    rollback(tmp_path / "models")
    with (
        embedded_server(tmp_path / "models", tmp_path / "server.json") as server,
        TritonClient(server.grpc, timeout_s=60) as client,
    ):
        assert server.loaded() == {"models": {"ranker": [1], "recommender": [1]}, "problem": None}
        inputs = {name: tensor for name, tensor in user_row().items() if name != "seen"}
        assert client.infer("ranker", {**inputs, "candidates": np.array([[1, 2]])}).version == 1


def test_a_release_that_changes_while_the_server_starts_is_served(tmp_path: Path) -> None:
    settings = ReleaseSettings(repository=str(tmp_path / "models"), keep=5)
    for version in (1, 2):
        artifacts = write_artifacts(tmp_path / f"artifacts-{version}", FACTORS[version])
        publish_release(settings, name="tiny", **artifacts, lineage={}, output=tmp_path / "release.json")
    promote(tmp_path / "models", 1)
    triton = Triton(tmp_path / "models")
    with ended(triton), ThreadPoolExecutor() as pool:
        started = pool.submit(triton.start)
        wait_for(lambda: is_listening(triton.grpc) or started.done())
        promote(tmp_path / "models", 2)
        started.result()
        with TritonClient(triton.grpc, timeout_s=60) as client:
            wait_for(lambda: client.infer("recommender", user_row()).version == 2)


def is_listening(address: str) -> bool:
    host, port = address.split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def test_a_broken_candidate_keeps_no_server_from_starting(tmp_path: Path) -> None:
    for version, strategy in ((1, "direct"), (2, "canary")):
        settings = ReleaseSettings(repository=str(tmp_path / "models"), strategy=strategy)
        artifacts = write_artifacts(tmp_path / f"artifacts-{version}")
        if version == 2:
            (artifacts["compressed"] / "chosen" / "ranker" / "model.onnx").write_bytes(b"not a graph")
        publish_release(settings, name="tiny", **artifacts, lineage={}, output=tmp_path / "release.json")
    with (
        embedded_server(tmp_path / "models", tmp_path / "server.json") as server,
        TritonClient(server.grpc, timeout_s=60) as client,
    ):
        assert server.loaded()["problem"].startswith("model ranker_candidate was not loaded")
        assert client.infer("recommender", user_row()).version == 1
