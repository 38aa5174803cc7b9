"""The response cache of a real Triton: answers that are kept never outlive their release."""

import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_release import top_k, user_row, write_artifacts

from leanrec.config import ReleaseSettings
from leanrec.errors import ServingError
from leanrec.files import write_text
from leanrec.release.publish import publish_release
from leanrec.schema import RECOMMENDER
from leanrec.triton import TritonClient
from leanrec.triton.client import Answer
from leanrec.triton.embedded_server import EmbeddedServer, embedded_server
from leanrec.triton.model_configuration import ModelConfiguration

pytestmark = pytest.mark.integration

CACHE_BYTES = 1 << 20
ENOUGH = 30
"""Answers awaited from each version."""
PATIENCE_S = 60


def publish(folder: Path, version: int) -> Path:
    """Publish a release whose scores are `version` times those of the first; the repository."""
    settings = ReleaseSettings(repository=str(folder / "models"))
    artifacts = write_artifacts(folder / f"artifacts-{version}", float(version))
    output = folder / f"release-{version}.json"
    publish_release(settings, name="tiny", **artifacts, lineage={}, output=output)
    return Path(settings.repository)


def hits(server: EmbeddedServer, version: int) -> int:
    """Requests for `version` of the recommender that the cache answered, by Triton's own count."""
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    wanted = f'nv_cache_num_hits_per_model{{model="{RECOMMENDER}",version="{version}"}} '
    return sum(int(line.removeprefix(wanted)) for line in lines if line.startswith(wanted))


@contextmanager
def asking(
    server: EmbeddedServer, inputs: dict[str, np.ndarray]
) -> Iterator[tuple[list[Answer], threading.Condition]]:
    """One client that repeats the same request, and what it was answered, in order."""
    answers: list[Answer] = []
    news, stopping = threading.Condition(), threading.Event()

    def ask() -> None:
        with TritonClient(server.grpc, timeout_s=60) as client:
            while not stopping.wait(0.002):
                answer = client.infer(RECOMMENDER, inputs)
                with news:
                    answers.append(answer)
                    news.notify_all()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers, news
    finally:
        stopping.set()
        thread.join()


def test_no_kept_answer_outlives_the_release_that_gave_it(tmp_path: Path) -> None:
    """One request, repeated while release 2 takes over: every answer is computed by the version it names."""
    repository = publish(tmp_path, 1)
    file = repository / RECOMMENDER / "config.pbtxt"
    write_text(file, replace(ModelConfiguration.from_pbtxt(file.read_text()), response_cache=True).to_pbtxt())
    inputs = user_row(batch=2)

    with (
        embedded_server(repository, tmp_path / "server.json", response_cache_bytes=CACHE_BYTES) as server,
        asking(server, inputs) as (answers, news),
    ):
        for version in (1, 2):
            if version == 2:
                publish(tmp_path, 2)
            with news:
                assert news.wait_for(
                    lambda wanted=version: sum(a.version == wanted for a in answers) >= ENOUGH, PATIENCE_S
                )
            assert hits(server, version) > 0
        with TritonClient(server.grpc, timeout_s=60) as client:
            pinned = client.infer(RECOMMENDER, inputs, version=1)

    served = [answer.version for answer in answers]
    assert served == sorted(served)  # no answer of release 1 after the first one of release 2
    expected = {version: top_k(inputs, float(version)) for version in (1, 2)}
    for answer in [*answers, pinned]:
        for name, output in answer.outputs.items():
            np.testing.assert_allclose(output, expected[answer.version][name], rtol=1e-5)
    assert pinned.version == 1
    assert ModelConfiguration.from_pbtxt(file.read_text()).response_cache  # a publish leaves it on


def test_a_cache_too_small_for_triton_is_refused(tmp_path: Path) -> None:
    repository = publish(tmp_path, 1)
    with (
        pytest.raises(ServingError, match="10 bytes cannot be had: give 0"),
        embedded_server(repository, tmp_path / "server.json", response_cache_bytes=10),
    ):
        pass
