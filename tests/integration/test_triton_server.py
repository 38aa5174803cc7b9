"""The launcher and the real Triton: it serves what the graph computes and refuses clearly."""

import http.client
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from process_table import descendants
from tiny_release import top_k, user_row, write_artifacts
from tritonclient.utils import InferenceServerException

from leanrec.config import ReleaseSettings
from leanrec.errors import ServingError
from leanrec.release.publish import publish_release
from leanrec.triton import TritonClient
from leanrec.triton.embedded_server import EmbeddedServer, embedded_server
from serving.client import Recommender

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    settings = ReleaseSettings(repository=str(folder / "models"))
    artifacts = write_artifacts(folder / "artifacts")
    publish_release(settings, name="tiny", **artifacts, lineage={}, output=folder / "release.json")
    return folder / "models"


@pytest.fixture(scope="module", params=["native", "python"])
def server(repository: Path, request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    with embedded_server(repository, repository.parent / "server.json", backend=request.param) as running:
        yield running


@pytest.fixture(scope="module")
def triton(server: EmbeddedServer) -> Iterator[TritonClient]:
    with TritonClient(server.grpc, timeout_s=60) as client:
        yield client


def test_a_batch_is_answered_as_the_graph_computes_it(triton: TritonClient) -> None:
    inputs = user_row(batch=5)
    answer, expected = triton.infer("recommender", inputs), top_k(inputs, factor=1.0)
    assert answer.version == 1
    np.testing.assert_array_equal(answer.outputs["item_index"], expected["item_index"])
    np.testing.assert_allclose(answer.outputs["score"], expected["score"], rtol=1e-6)


def test_requests_that_arrive_together_get_their_own_answers(server: EmbeddedServer) -> None:
    """Triton puts them into one batch; users, batch sizes and lengths of `seen` differ."""
    faults: list[str] = []

    def ask(seen: int, batch: int) -> None:
        with TritonClient(server.grpc, timeout_s=60) as client:
            for _ in range(20):
                inputs = user_row(batch=batch, seen=seen)
                items = client.infer("recommender", inputs).outputs["item_index"]
                if not np.array_equal(items, top_k(inputs, factor=1.0)["item_index"]):
                    faults.append(f"seen {seen}, batch {batch}: {items}")

    threads = [threading.Thread(target=ask, args=(2 + n % 3, 1 + n % 2)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def test_a_fault_fails_its_own_request_only(server: EmbeddedServer) -> None:
    """A candidate that no item has makes ONNX Runtime refuse; its neighbours in the batch go on."""
    inputs = {name: tensor for name, tensor in user_row().items() if name != "seen"}
    good, bad = np.array([[1, 2, 3]]), np.array([[1, 2, 99]])
    outcomes: dict[str, set[str]] = {"good": set(), "bad": set()}

    def ask(kind: str, candidates: np.ndarray) -> None:
        with TritonClient(server.grpc, timeout_s=60) as client:
            for _ in range(25):
                try:
                    answer = client.infer("ranker", {**inputs, "candidates": candidates})
                    outcomes[kind].add(str(np.round(answer.outputs["score"].astype(float), 3).tolist()))
                except ServingError as error:
                    outcomes[kind].add(
                        "out of data bounds" if "out of data bounds" in str(error) else str(error)
                    )

    threads = [
        threading.Thread(target=ask, args=pair) for pair in (("good", good), ("bad", bad), ("good", good))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == {"good": {"[[0.05, 0.1, 0.15]]"}, "bad": {"out of data bounds"}}


@pytest.mark.parametrize(
    ("model", "version", "change", "said"),
    [
        ("nobody", None, {}, "unknown model: 'nobody'"),
        ("recommender", 7, {}, "'recommender' version 7 is not found"),
        (
            "recommender",
            None,
            {"history": np.zeros((1, 9), np.int64)},
            "unexpected shape for input 'history'",
        ),
        ("recommender", None, {"seen": np.zeros((1, 2), np.int32)}, "seen"),
        ("recommender", None, {"colour": np.zeros((1, 1), np.int64)}, "colour"),
    ],
)
def test_a_wrong_request_is_refused_with_what_is_wrong(
    triton: TritonClient, model: str, version: int | None, change: dict, said: str
) -> None:
    with pytest.raises(ServingError, match=said):
        triton.infer(model, {**user_row(), **change}, version=version)


def test_a_server_that_hangs_costs_no_more_than_the_deadline(server: EmbeddedServer) -> None:
    frozen = [p for p in descendants(server.pid) if "triton" in Path(f"/proc/{p}/cmdline").read_text()]
    with TritonClient(server.grpc, timeout_s=60) as client:
        client.infer("recommender", user_row())
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(ServingError, match=r"did not answer within 0\.3 s"):
                client.infer("recommender", user_row(), timeout_s=0.3)
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        assert client.infer("recommender", user_row()).version == 1


def test_an_address_where_nothing_listens_is_named() -> None:
    with (
        TritonClient("127.0.0.1:1") as client,
        pytest.raises(ServingError, match=r"nothing answers at 127\.0"),
    ):
        client.infer("recommender", user_row())


def test_the_typed_client_recommends_and_ranks(server: EmbeddedServer) -> None:
    inputs = user_row(batch=2)
    with Recommender(server.grpc) as recommender:
        lists = recommender.recommend(inputs, k=3)
        assert [[r.item_index for r in user] for user in lists] == top_k(inputs, 1.0)["item_index"][
            :, :3
        ].tolist()
        scores = recommender.rank(inputs, np.array([[4, 8]] * 2))["score"]
        np.testing.assert_allclose(scores, [[0.2, 0.4]] * 2, rtol=1e-6)
        with pytest.raises(ServingError, match="k is 99; this release answers 1 to 12 items"):
            recommender.recommend(inputs, k=99)


@pytest.mark.parametrize("path", ["/v2/repository/models/recommender/unload", "/v2/repository/index"])
def test_nobody_without_the_key_may_control_the_models(server: EmbeddedServer, path: str) -> None:
    connection = http.client.HTTPConnection(server.http)
    connection.request("POST", path, "{}")
    assert connection.getresponse().status == 403
    connection.close()


def test_the_control_interface_of_grpc_wants_the_key_too(server: EmbeddedServer) -> None:
    with (
        grpcclient.InferenceServerClient(server.grpc) as client,
        pytest.raises(InferenceServerException) as error,
    ):
        client.unload_model("recommender")
    assert "restricted" in str(error.value)
