"""The launcher: it starts Triton or says why not, and leaves nothing behind."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from process_table import command_of, descendants, wait_until_gone
from tiny_release import user_row, write_artifacts

from leanrec.config import ReleaseSettings
from leanrec.errors import ServingError
from leanrec.release.publish import publish_release
from leanrec.release.repository import ModelRepository
from leanrec.triton import TritonClient
from serving import embedded
from serving.environment import find_environment
from serving.server import Triton, reserve_ports

pytestmark = pytest.mark.integration

SERVE = ("--http-port=0", "--grpc-port=0", "--metrics-port=0", "--repository")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    settings = ReleaseSettings(repository=str(folder / "models"))
    artifacts = write_artifacts(folder / "artifacts")
    publish_release(settings, name="tiny", **artifacts, lineage={}, output=folder / "release.json")
    return folder / "models"


@contextmanager
def launched(repository: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], dict]]:
    """A launcher, ready; killed at the end if it still runs."""
    command = [sys.executable, "-m", "serving.embedded", "--repository", str(repository)]
    for port in ("http", "grpc", "metrics"):
        command += [f"--{port}-port", "0"]
    launcher = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    try:
        assert launcher.stdout
        yield launcher, json.loads(launcher.stdout.readline())
    finally:
        launcher.kill()
        launcher.communicate()


def refused(*arguments: str) -> str:
    """The sentence with which the launcher refuses."""
    done = subprocess.run(
        [sys.executable, "-m", "serving.embedded", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT", "eof"])
@pytest.mark.parametrize(("backend", "processes"), [("native", 1), ("python", 3)])
def test_however_the_launcher_ends_no_process_is_left(
    repository: Path, tmp_path: Path, backend: str, processes: int, how: str
) -> None:
    """Triton alone, or with a stub of Python's for each model."""
    announcement = tmp_path / "server.json"
    options = ["--announce", str(announcement), "--until-eof", "--backend", backend]
    with launched(repository, *options) as (launcher, facts):
        below = descendants(launcher.pid)
        assert len(below) >= processes
        assert (len(below) == 1) == (backend == "native")
        assert facts["backend"] == backend
        assert json.loads(announcement.read_text())["pid"] == launcher.pid == facts["pid"]
        if how == "eof":
            assert launcher.stdin
            launcher.stdin.close()
            launcher.stdin = None
        else:
            launcher.send_signal(getattr(signal, how))
        status = launcher.wait(120)
        assert wait_until_gone(below) == set()
    assert status == (-signal.SIGKILL if how == "SIGKILL" else 0)
    assert announcement.exists() == (how == "SIGKILL")


def test_what_a_killed_launcher_left_on_disk_and_in_memory_goes_with_the_next_launch(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # of their own: other launchers clean up the shared one
    with launched(repository, "--backend", "python") as (launcher, _):
        below = descendants(launcher.pid)
        launcher.kill()
        launcher.wait()
        assert wait_until_gone(below) == set()
    (stale,) = tmp_path.glob("leanrec-triton-*")
    regions = {path.name for path in Path("/dev/shm").glob(f"{stale.name}*")}
    assert regions
    with launched(repository) as (launcher, _):
        assert not stale.exists()
        assert not regions & {path.name for path in Path("/dev/shm").iterdir()}
        launcher.terminate()
        assert launcher.wait(120) == 0


def test_when_triton_dies_the_launcher_says_so_and_ends(repository: Path) -> None:
    with launched(repository) as (launcher, _):
        below = descendants(launcher.pid)
        (server,) = [process for process in below if command_of(process).endswith("tritonserver")]
        os.kill(server, signal.SIGKILL)
        assert launcher.wait(120) == 2
        assert wait_until_gone(below) == set()
        assert launcher.stderr and "Triton ended with status -9" in launcher.stderr.read()


def test_ctrl_c_during_the_start_ends_it_and_leaves_nothing(repository: Path) -> None:
    """With the Python backend, whose models take long enough to start that it is met before it serves."""
    command = [sys.executable, "-m", "serving.embedded", *SERVE, str(repository), "--backend", "python"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as launcher:
        deadline = time.monotonic() + 30
        while not descendants(launcher.pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        below = descendants(launcher.pid)
        launcher.send_signal(signal.SIGINT)
        said, _ = launcher.communicate(timeout=120)
        assert (launcher.returncode, said) == (0, b"")
    assert wait_until_gone(below) == set()


def test_a_port_that_is_taken_is_named_with_the_way_out(repository: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        said = refused(
            "--repository", str(repository), "--grpc-port", str(port), "--http-port=0", "--metrics-port=0"
        )
    assert f"port {port} (grpc)" in said and "--grpc-port" in said
    assert said.count("\n") == 1


def test_a_repository_that_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    assert "no such folder" in refused("--repository", str(tmp_path / "nowhere"))
    assert "it holds no model" in refused("--repository", str(tmp_path))


def test_a_python_without_triton_is_named(repository: Path) -> None:
    said = refused("--repository", str(repository), "--python", sys.executable)
    assert "nvidia-pytriton" in said and "requirements/serving.lock" in said
    assert "no such program" in refused("--repository", str(repository), "--python", "/nowhere/python")


@pytest.mark.parametrize("backend", ["native", "python"])
def test_a_model_that_cannot_be_served_ends_the_start_with_tritons_own_reason(
    repository: Path, tmp_path: Path, backend: str
) -> None:
    (tmp_path / "ranker" / "1").mkdir(parents=True)
    (tmp_path / "ranker" / "1" / "model.onnx").write_bytes(b"not a graph")
    (tmp_path / "ranker" / "config.pbtxt").write_text((repository / "ranker" / "config.pbtxt").read_text())
    said = refused(*SERVE, str(tmp_path), "--backend", backend)
    assert "model ranker cannot be served" in said and "ONNX Runtime refuses it" in said


@pytest.mark.parametrize("backend", ["native", "python"])
@pytest.mark.parametrize(
    ("written", "instead", "said"),
    [
        ('name: "candidates"', 'name: "candidate"', "config.pbtxt names ['candidate', "),
        ('name: "score"', 'name: "points"', "config.pbtxt names ['like', 'points', 'rating']"),
        ('string_value: "1"', 'string_value: "two"', "parameter intra_op_thread_count is 'two'"),
    ],
)
def test_a_configuration_unlike_the_graph_ends_the_start_with_what_differs(
    repository: Path, tmp_path: Path, backend: str, written: str, instead: str, said: str
) -> None:
    answer = refused_with(repository, tmp_path, backend, written, instead)
    assert said in answer


def test_the_native_backend_names_an_element_type_that_is_not_the_graphs(
    repository: Path, tmp_path: Path
) -> None:
    said = refused_with(repository, tmp_path, "native", "data_type: TYPE_FP32", "data_type: TYPE_FP64")
    assert "is of TYPE_FP32, config.pbtxt says TYPE_FP64" in said


def refused_with(repository: Path, models: Path, backend: str, written: str, instead: str) -> str:
    """Why a ranker is refused whose configuration says `instead` of what is `written`."""
    shutil.copytree(repository / "ranker", models / "ranker")
    configuration = models / "ranker" / "config.pbtxt"
    text = configuration.read_text()
    assert written in text
    configuration.write_text(text.replace(written, instead))
    answer = refused(*SERVE, str(models), "--backend", backend)
    assert "model ranker cannot be served" in answer
    return answer


def test_a_native_backend_that_was_not_built_is_not_taken_for_one_that_was() -> None:
    environment = find_environment()
    unbuilt = replace(environment, versions={**environment.versions, "onnxruntime": "of another build"})
    assert embedded._choose_backend(environment, None) is True
    assert embedded._choose_backend(environment, "python") is False
    assert embedded._choose_backend(unbuilt, None) is False
    with pytest.raises(ServingError, match="the native backend was not built"):
        embedded._choose_backend(unbuilt, "native")


@pytest.fixture
def numpy_2(tmp_path: Path) -> Path:
    """The programs of an environment in which Triton's stub finds numpy 2 (this one's)."""
    assert np.__version__.startswith("2.")
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    packages = Path(np.__file__).parent.parent
    mixed = next((tmp_path / "venv" / "lib").glob("python*")) / "site-packages"
    for folder in packages.glob("numpy*"):
        (mixed / folder.name).symlink_to(folder)
    (mixed / "serving.pth").write_text(str(find_environment().packages))
    return tmp_path / "venv" / "bin"


def test_numpy_2_is_refused_before_the_start(repository: Path, numpy_2: Path) -> None:
    said = refused("--repository", str(repository), "--python", str(numpy_2 / "python3"))
    assert "numpy is 2" in said and "corrupts tensors" in said


def test_the_start_up_round_trip_notices_tensors_that_arrive_wrong(tmp_path: Path, numpy_2: Path) -> None:
    environment = replace(find_environment(), programs=numpy_2)
    ports = reserve_ports("127.0.0.1", http=0, grpc=0, metrics=0)
    triton = Triton(ports, tmp_path / "triton.log")
    work = tmp_path / "leanrec-test-numpy-2"
    try:
        options = embedded._parse(["--repository", str(tmp_path)])
        command = embedded._command(environment, work, tmp_path, options, native=False)
        triton.start(command, environment.variables())
        triton.wait_until_live(60, threading.Event())
        with pytest.raises(ServingError, match=r"sent \[1, 2, 3\] and received"):
            embedded._prove_round_trip(triton)
    finally:
        triton.stop()
        embedded._remove(work)


def test_a_server_may_start_before_the_first_release(tmp_path: Path, repository: Path) -> None:
    waiting = tmp_path / "models"
    waiting.mkdir()
    with launched(waiting, "--allow-empty") as (launcher, facts):
        assert facts["models"] == {}
        settings = ReleaseSettings(repository=str(waiting))
        artifacts = write_artifacts(tmp_path / "artifacts")
        publish_release(settings, name="tiny", **artifacts, lineage={}, output=tmp_path / "release.json")
        with TritonClient(facts["grpc"], timeout_s=60) as client:
            client.wait_until_ready("recommender")
            assert client.infer("recommender", user_row()).version == 1
        launcher.terminate()
        assert launcher.wait(120) == 0
    assert ModelRepository(waiting).is_settled()
