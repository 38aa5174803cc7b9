"""Releases on S3-compatible storage, through a real service over HTTP."""

import os
import select
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from object_storage import CREDENTIALS, new_bucket, object_storage
from small_disk import mounted_disk
from tiny_release import top_k, user_row, write_artifacts
from typer.testing import CliRunner
from waiting import wait_for

from leanrec.cli import app
from leanrec.config import ReleaseSettings
from leanrec.config.storage import ObjectStoreSettings
from leanrec.errors import ReleaseError
from leanrec.release.integrity import verify
from leanrec.release.mirror import follow, pull, push
from leanrec.release.object_store import ObjectStore
from leanrec.release.promote import accept, advance, promote, rollback, status, withdraw
from leanrec.release.publish import publish_release
from leanrec.release.repository import RELEASE_FILE, ModelRepository
from leanrec.triton import TritonClient
from leanrec.triton.embedded_server import embedded_server

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        with object_storage() as address:
            yield address


@pytest.fixture
def bucket(endpoint: str) -> ObjectStoreSettings:
    return new_bucket(endpoint)


def publish(repository: Path, factor: float = 1.0, strategy: str = "direct") -> int:
    artifacts = write_artifacts(repository.parent / f"artifacts-{time.monotonic_ns()}", factor)
    settings = ReleaseSettings(repository=str(repository), keep=2, strategy=strategy)
    output = repository.parent / "release.json"
    return publish_release(settings, name="tiny", **artifacts, lineage={}, output=output)["version"]


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def test_what_was_pushed_is_pulled_and_only_what_is_new_travels(
    tmp_path: Path, bucket: ObjectStoreSettings
) -> None:
    ours, theirs, store = tmp_path / "ours", tmp_path / "theirs", ObjectStore(bucket)
    publish(ours)
    assert push(ours, store) == {"stable": 1, "pushed": [1], "removed": []}
    assert pull(store, theirs)["pulled"] == [1]
    assert content(theirs) == content(ours)
    publish(ours)
    publish(ours)
    assert push(ours, store) == {"stable": 3, "pushed": [2, 3], "removed": [1]}
    assert pull(store, theirs)["pulled"] == [2, 3]
    assert content(theirs) == content(ours)
    etag = store.etag()
    assert push(ours, store) == {"stable": 3, "pushed": [], "removed": []}
    assert store.etag() == etag
    rollback(ours)
    push(ours, store)
    assert pull(store, theirs)["pulled"] == []
    assert status(theirs)["stable"] == 2
    assert status(theirs)["settled"]
    assert store.versions() == {2, 3}


def test_a_damaged_object_is_never_put_in_place(tmp_path: Path, bucket: ObjectStoreSettings) -> None:
    ours, theirs, store = tmp_path / "ours", tmp_path / "theirs", ObjectStore(bucket)
    publish(ours)
    push(ours, store)
    pull(store, theirs)
    before = content(theirs)
    publish(ours)
    push(ours, store)
    store.put("ranker/2/model.onnx", b"not a graph")
    with pytest.raises(ReleaseError, match=r"ranker/2/model.onnx: its SHA-256 is not the manifest's"):
        pull(store, theirs)
    assert content(theirs) == before
    assert push(ours, store)["pushed"] == [2]
    assert pull(store, theirs)["stable"] == 2


def test_a_rollout_travels_with_its_candidate_stage_by_stage(
    tmp_path: Path, bucket: ObjectStoreSettings
) -> None:
    ours, theirs, store = tmp_path / "ours", tmp_path / "theirs", ObjectStore(bucket)
    publish(ours)
    publish(ours, factor=2.0, strategy="canary")
    push(ours, store)
    assert pull(store, theirs) | {"etag": ""} == {"stable": 1, "pulled": [1, 2], "etag": ""}
    assert content(theirs) == content(ours)
    assert (theirs / "recommender_candidate/2/model.onnx").samefile(theirs / "recommender/2/model.onnx")
    advance(ours, "canary", percent=10, reason="its answers agree")
    push(ours, store)
    assert pull(store, theirs)["pulled"] == []
    assert status(theirs)["rollout"]["percent"] == 10
    accept(ours, "every bound was kept")
    push(ours, store)
    assert pull(store, theirs)["stable"] == 2
    assert content(theirs) == content(ours)
    assert not (theirs / "ranker_candidate").exists()
    assert status(theirs)["settled"]


def test_a_follower_outlives_a_folder_that_cannot_be_written(
    tmp_path: Path, bucket: ObjectStoreSettings
) -> None:
    ours, theirs, store = tmp_path / "ours", tmp_path / "theirs", ObjectStore(bucket)
    publish(ours)
    push(ours, store)
    theirs.write_text("a file where the folder should be")
    stopping, told = threading.Event(), []
    follower = threading.Thread(target=follow, args=(store, theirs, stopping, 0.05, told.append))
    follower.start()
    try:
        wait_for(lambda: bool(told))
        theirs.unlink()
        wait_for((theirs / RELEASE_FILE).exists)
    finally:
        stopping.set()
        follower.join()
    assert "File exists" in told[0]


def test_a_follower_outlives_a_damaged_manifest_and_a_full_disk(
    tmp_path: Path, bucket: ObjectStoreSettings
) -> None:
    ours, store = tmp_path / "ours", ObjectStore(bucket)
    publish(ours)
    publish(ours, strategy="canary")
    push(ours, store)
    name = "recommender/1/release/manifest.json"
    whole = (ours / name).read_bytes()
    stopping, told = threading.Event(), []
    with mounted_disk(tmp_path, "1m") as disk:
        theirs, ballast = disk / "models", disk / "ballast"
        follower = threading.Thread(target=follow, args=(store, theirs, stopping, 0.05, told.append))
        store.put(name, b"{rot")
        follower.start()
        try:
            wait_for(lambda: any(f"{name}: damaged" in line for line in told))
            store.put(name, b'{"name": "tiny"}')
            told.clear()
            wait_for(lambda: any(f"{name}: damaged" in line for line in told))
            store.put(name, whole)
            wait_for(lambda: any("version 1 is stable" in line for line in told))
            with ballast.open("wb", buffering=0) as file, suppress(OSError):
                file.write(b"x" * os.statvfs(disk).f_bavail * 4096)
            withdraw(ours, "ended by the test")
            told.clear()
            push(ours, store)
            wait_for(lambda: any("the disk is full" in line for line in told))
            ballast.unlink()
            wait_for(lambda: status(theirs)["rollout"] is None)
        finally:
            stopping.set()
            follower.join()


class Door(socketserver.ThreadingTCPServer):
    """What lies between a follower and its store; shut, nobody gets through, nor goes on talking."""

    daemon_threads = True

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), Passage)
        host, _, port = endpoint.removeprefix("http://").rpartition(":")
        self.behind = (host, int(port))
        self.is_open = True
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"


class Passage(socketserver.BaseRequestHandler):
    """One connection through the door."""

    server: Door

    def handle(self) -> None:
        if not self.server.is_open:
            return
        with socket.create_connection(self.server.behind) as behind:
            other = {self.request: behind, behind: self.request}
            while self.server.is_open:
                for side in select.select(list(other), [], [], 0.05)[0]:
                    words = side.recv(65536)
                    if not words:
                        return
                    other[side].sendall(words)


def test_a_follower_outlives_a_store_that_is_away(tmp_path: Path, bucket: ObjectStoreSettings) -> None:
    ours, theirs, store = tmp_path / "ours", tmp_path / "theirs", ObjectStore(bucket)
    publish(ours)
    push(ours, store)
    stopping, told = threading.Event(), []
    with Door(bucket.endpoint or "") as door:
        threading.Thread(target=door.serve_forever, daemon=True).start()
        through = ObjectStore(bucket.model_copy(update={"endpoint": door.endpoint}))
        follower = threading.Thread(target=follow, args=(through, theirs, stopping, 0.05, told.append))
        follower.start()
        try:
            wait_for(lambda: any("version 1 is stable" in line for line in told))
            before = content(theirs)
            door.is_open = False
            publish(ours)
            push(ours, store)
            wait_for(lambda: any(line.startswith("problem: ") for line in told), timeout_s=300)
            assert content(theirs) == before
            door.is_open = True
            wait_for(lambda: any("version 2 is stable" in line for line in told), timeout_s=300)
            assert content(theirs) == content(ours)
        finally:
            stopping.set()
            follower.join()
            door.shutdown()


class Dying(ObjectStore):
    """A store whose process dies before its `last`-th transfer."""

    def __init__(self, settings: ObjectStoreSettings, last: int) -> None:
        super().__init__(settings)
        self.left = last

    def transfer(self, name: str) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt(name)

    def put(self, name: str, body: bytes) -> None:
        self.transfer(name)
        super().put(name, body)

    def put_if_unchanged(self, name: str, body: bytes, etag: str | None) -> None:
        self.transfer(name)
        super().put_if_unchanged(name, body, etag)

    def upload(self, name: str, file: Path, sha256: str) -> None:
        self.transfer(name)
        super().upload(name, file, sha256)

    def download(self, name: str, file: Path) -> None:
        self.transfer(name)
        super().download(name, file)


def test_an_interrupted_push_shows_nothing_half_and_is_finished_by_the_next(
    tmp_path: Path, bucket: ObjectStoreSettings
) -> None:
    ours, store = tmp_path / "ours", ObjectStore(bucket)
    publish(ours)
    push(ours, store)
    publish(ours, factor=2.0)
    stables = []
    for number in range(0, 40, 3):
        try:
            push(ours, Dying(bucket, number))
        except KeyboardInterrupt:
            found = pull(store, tmp_path / f"pulled-{number}")
            stables.append(found["stable"])
            assert verify(tmp_path / f"pulled-{number}", found["stable"]) == []
    assert stables[0] == 1
    assert push(ours, store)["stable"] == 2
    pull(store, tmp_path / "last")
    assert content(tmp_path / "last") == content(ours)


def test_an_interrupted_pull_changes_nothing_and_is_finished_by_the_next(
    tmp_path: Path, bucket: ObjectStoreSettings
) -> None:
    ours, theirs, store = tmp_path / "ours", tmp_path / "theirs", ObjectStore(bucket)
    publish(ours)
    push(ours, store)
    pull(store, theirs)
    before = content(theirs)
    publish(ours)
    push(ours, store)
    for number in (0, 4, 9):
        with pytest.raises(KeyboardInterrupt):
            pull(Dying(bucket, number), theirs)
        assert content(theirs) == before
    assert pull(store, theirs)["pulled"] == [2]
    assert content(theirs) == content(ours)


def test_of_two_writers_the_second_is_refused(tmp_path: Path, bucket: ObjectStoreSettings) -> None:
    ours, theirs, store = tmp_path / "ours", tmp_path / "theirs", ObjectStore(bucket)
    publish(ours)
    with pytest.raises(ReleaseError, match="another writer changed the stored releases"):
        push(ours, store)
        store.put_if_unchanged(RELEASE_FILE, b"{}", None)
    read = store.state()
    assert read
    pull(store, theirs)
    publish(ours, factor=2.0)
    push(ours, store)
    with pytest.raises(ReleaseError, match="another writer changed the stored releases"):
        store.put_if_unchanged(RELEASE_FILE, b"{}", read.etag)
    publish(theirs, factor=3.0)
    with pytest.raises(ReleaseError, match="generation 2 of this folder does not go on from it"):
        push(theirs, store)
    with pytest.raises(ReleaseError, match="its version 2 is another one than in s3://"):
        pull(store, theirs)
    publish(theirs)
    with pytest.raises(ReleaseError, match=r"it goes on to version 3 and .* ends at 2"):
        pull(store, theirs)
    found = store.state()
    assert found and found.state == ModelRepository(ours).state()


def test_a_folder_left_behind_undoes_no_decision_made_elsewhere(
    tmp_path: Path, bucket: ObjectStoreSettings
) -> None:
    ours, theirs, store = tmp_path / "ours", tmp_path / "theirs", ObjectStore(bucket)
    publish(ours)
    publish(ours)
    push(ours, store)
    pull(store, theirs)
    rollback(ours)
    push(ours, store)
    with pytest.raises(ReleaseError, match=r"generation 3 is stored there, with version 1 stable.*pull"):
        push(theirs, store)
    # A decision of its own makes the folder's state as new as the stored one, but no successor of it.
    promote(theirs, 1)
    with pytest.raises(ReleaseError, match="generation 3 of this folder does not go on from it"):
        push(theirs, store)
    promote(theirs, 2)
    with pytest.raises(ReleaseError, match="generation 4 of this folder does not go on from it"):
        push(theirs, store)
    with pytest.raises(ReleaseError, match=r"generation 4, those in .* of 3; push .* or pull into another"):
        pull(store, theirs)
    found = store.state()
    assert found and found.state == ModelRepository(ours).state()
    # The way out that the error names.
    pull(store, tmp_path / "again")
    promote(tmp_path / "again", 2)
    assert push(tmp_path / "again", store)["stable"] == 2
    assert pull(store, ours)["stable"] == 2


def test_a_push_whose_answer_was_lost_may_be_repeated(tmp_path: Path, bucket: ObjectStoreSettings) -> None:
    ours, store = tmp_path / "ours", ObjectStore(bucket)
    publish(ours)
    push(ours, store)
    read = store.state()
    assert read
    for etag, name in ((None, "another.json"), (read.etag, RELEASE_FILE)):
        store.put_if_unchanged(name, b'{"new": 1}', etag)
        store.put_if_unchanged(name, b'{"new": 1}', etag)
        with pytest.raises(ReleaseError, match="another writer changed the stored releases"):
            store.put_if_unchanged(name, b'{"other": 1}', etag)


@pytest.mark.parametrize(
    ("url", "said"),
    [("s3://no-such-bucket-at-all/x", "holds no release|refuses"), ("/tmp/x", "named s3://bucket/prefix")],
)
def test_a_place_that_is_none_is_an_error_of_one_sentence(
    tmp_path: Path, endpoint: str, url: str, said: str
) -> None:
    with pytest.raises(ReleaseError, match=said):
        pull(ObjectStore(ObjectStoreSettings(endpoint=endpoint), url), tmp_path / "models")


def test_a_triton_beside_a_follower_serves_what_is_pushed_elsewhere(
    tmp_path: Path, bucket: ObjectStoreSettings
) -> None:
    ours, replica, store = tmp_path / "ours", tmp_path / "replica", ObjectStore(bucket)
    stopping, told = threading.Event(), []
    publish(ours)
    push(ours, store)
    follower = threading.Thread(
        target=follow, args=(ObjectStore(bucket), replica, stopping, 0.1, told.append)
    )
    follower.start()
    try:
        wait_for((replica / RELEASE_FILE).exists)
        wait_for(lambda: ModelRepository(replica).is_settled())
        with (
            embedded_server(replica, tmp_path / "server.json") as server,
            TritonClient(server.grpc, timeout_s=60) as client,
        ):
            assert client.infer("recommender", user_row()).version == 1
            publish(ours, factor=2.0)
            push(ours, store)
            wait_for(lambda: client.infer("recommender", user_row()).version == 2)
            answer = client.infer("recommender", user_row())
            assert answer.outputs["score"] == pytest.approx(top_k(user_row(), 2.0)["score"])
            rollback(ours)
            push(ours, store)
            wait_for(lambda: client.infer("recommender", user_row()).version == 1)
    finally:
        stopping.set()
        follower.join()
    assert not [line for line in told if line.startswith("problem")]


def test_what_is_decided_by_command_reaches_the_store_or_the_command_says_that_it_did_not(
    tmp_path: Path, bucket: ObjectStoreSettings
) -> None:
    ours, store, config = tmp_path / "ours", ObjectStore(bucket), tmp_path / "run.yaml"
    publish(ours)
    publish(ours)
    push(ours, store)
    release = {"repository": str(ours), "object_store": bucket.model_dump(mode="json")}
    run_settings = {
        "name": "tiny",
        "data": {"source": "synthetic"},
        "feature_store": {"repository": str(tmp_path / "features")},
    }
    config.write_text(yaml.safe_dump(run_settings | {"release": release}))

    def run(*command: str) -> str:
        outcome = CliRunner().invoke(app, ["release", *command])
        return str(outcome.exception or outcome.output)

    assert "Version 1 is stable again" in run("rollback", str(config))
    assert store.state().state.stable == 1
    assert "Version 2 is stable" in run("promote", str(config), "2")
    assert store.state().state.stable == 2
    gone = release | {"object_store": {**release["object_store"], "url": "s3://no-such-bucket/there"}}
    config.write_text(yaml.safe_dump(run_settings | {"release": gone}))
    assert "did not reach" in run("rollback", str(config))
    assert status(ours)["stable"] == 1
