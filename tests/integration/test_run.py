"""The main job for real: raw files to answers by Triton, again, with bad input, and interrupted."""

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from tiny_workspace import RAW_USER, make_workspace, read_rows, write_rows

from leanrec.journal import read_lines

pytestmark = pytest.mark.integration

LEANREC = [sys.executable, "-c", "from leanrec.cli import main; main()"]
STEPS = (
    "ingest_events",
    "validate_tables",
    "build_features",
    "build_training_set",
    "check_drift",
    "train_models",
    "evaluate_models",
    "export_graphs",
    "compress_models",
    "check_parity",
    "judge_release",
    "materialize_features",
    "publish_release",
    "smoke_test_release",
    "write_report",
)
"""In the order in which KFP's local runner takes them."""


def leanrec(folder: Path, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    """Run the command line in `folder`."""
    return subprocess.run(
        [*LEANREC, *arguments], cwd=folder, capture_output=True, text=True, timeout=900, **options
    )


def succeed(folder: Path, *arguments: str) -> dict:
    """Run the command line with --json; what it printed."""
    done = leanrec(folder, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def digests(folder: Path) -> dict[str, str]:
    """Every file below `folder` with its digest."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def processes_of(folder: Path) -> list[str]:
    """Command lines of the processes that work in `folder`."""
    found = []
    for process in psutil.process_iter(["cwd", "cmdline"]):
        if process.info["cwd"] and Path(process.info["cwd"]).is_relative_to(folder):
            found.append(" ".join(process.info["cmdline"] or []))
    return found


def wait_for_no_process(folder: Path, seconds: float = 120.0) -> None:
    """Fail when a process still works in `folder` after `seconds`."""
    deadline = time.monotonic() + seconds
    while (left := processes_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []


def leftovers(folder: Path) -> list[str]:
    """Files and folders that a write beside left behind."""
    return [str(path) for path in folder.rglob("*") if re.search(r"\.(tmp|old)(\.|$)", path.name)]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace that has run once: release 1 is published."""
    folder = tmp_path_factory.mktemp("workspace")
    make_workspace(folder, serving={"http_port": 0, "grpc_port": 0, "metrics_port": 0})
    done = leanrec(folder, "run", "run.yaml")
    assert done.returncode == 0, done.stderr
    (folder / "first.txt").write_text(done.stdout)
    yield folder
    wait_for_no_process(folder)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """`leanrec serve` on the latest run; its gRPC address."""
    process = subprocess.Popen(
        [*LEANREC, "serve"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline() if process.stdout else ""
        assert line, process.communicate()[1]
        yield json.loads(line)["grpc"]
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 0


def test_a_run_prints_what_three_people_liked_and_get(workspace: Path) -> None:
    printed = (workspace / "first.txt").read_text()
    assert printed.count("liked Item") == 3
    assert printed.count("Triton recommends") == 3
    assert re.search(r"runs/tiny-[0-9-]+/report\.html", printed)


def test_a_run_leaves_a_report_with_the_seconds_of_every_step(workspace: Path) -> None:
    report = json.loads((workspace / "runs/latest/report.json").read_text())
    seconds = {step["step"]: step["seconds"] for step in report["steps"]}
    assert set(STEPS) <= set(seconds)
    assert all(value > 0 for value in seconds.values() if value is not None)
    assert "<html" in (workspace / "runs/latest/report.html").read_text()[:200]


def test_nothing_of_a_raw_user_id_is_stored(workspace: Path) -> None:
    stored = [file for room in ("runs", "stores") for file in (workspace / room).rglob("*") if file.is_file()]
    tables = [file for file in stored if pq_file(file)]
    assert {"events", "users"} <= {file.name for file in tables}
    for file in stored:
        text = str(pq.read_table(file).to_pylist()) if file in tables else file.read_bytes().decode("latin-1")
        assert RAW_USER not in text, file
    assert (workspace / ".leanrec/pseudonym.key").stat().st_mode & 0o777 == 0o600


def pq_file(file: Path) -> bool:
    """Whether a file is Parquet, whatever its name."""
    with file.open("rb") as stream:
        return stream.read(4) == b"PAR1"


def test_a_second_run_reuses_what_has_not_changed_and_no_client_notices(workspace: Path) -> None:
    from leanrec.schema import RECOMMENDER
    from leanrec.triton import TritonClient

    spec = json.loads(next(workspace.glob("stores/models/recommender/1/release/spec.json")).read_text())
    versions: list[int] = []
    failures: list[Exception] = []
    stop = threading.Event()

    with served(workspace) as address:
        request = empty_request(spec)

        def hammer() -> None:
            with TritonClient(address, timeout_s=60) as client:
                while not stop.is_set():
                    try:
                        versions.append(client.infer(RECOMMENDER, request).version)
                    except Exception as error:
                        failures.append(error)

        thread = threading.Thread(target=hammer)
        thread.start()
        outcome = succeed(workspace, "run", "run.yaml")
        deadline = time.monotonic() + 300
        while versions[-1] != 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        stop.set()
        thread.join()
    assert failures == []
    assert outcome["release"]["version"] == 2
    assert versions == sorted(versions)
    assert set(versions) == {1, 2}
    ran = {line["step"] for line in read_lines(workspace / "runs/latest/journal.jsonl")}
    assert not {"ingest_events", "train_models", "compress_models"} & ran
    assert "publish_release" in ran


def empty_request(spec: dict) -> dict:
    """The tensors of a user of whom nothing is known."""
    import numpy as np

    from leanrec.schema import RECOMMENDER, ModelSpec

    kinds = {"INT64": np.int64, "FP32": np.float32}
    return {
        tensor.name: np.zeros((1, *[max(size, 1) for size in tensor.shape]), dtype=kinds[tensor.dtype])
        for tensor in ModelSpec(**spec).inputs(RECOMMENDER)
    }


def test_recommend_answers_known_and_unknown_users(workspace: Path) -> None:
    with served(workspace) as address:
        known = succeed(workspace, "recommend", "--user", f"{RAW_USER}3", "-k", "5", "--server", address)
        unknown = succeed(workspace, "recommend", "--user", "nobody", "-k", "5", "--server", address)
        said = leanrec(workspace, "recommend", "--user", "nobody", "-k", "5", "--server", address).stdout
    assert known["known"]
    assert len(known["recommendations"]) == 5
    scores = [line["score"] for line in known["recommendations"]]
    assert scores == sorted(scores, reverse=True)
    seen = {
        row["item_id"] for row in read_rows(workspace / "raw/events.csv") if row["user_id"] == f"{RAW_USER}3"
    }
    assert not seen & {line["item_id"] for line in known["recommendations"]}
    assert not unknown["known"]
    assert len(unknown["recommendations"]) == 5
    assert "unknown" in said


def test_recommend_without_a_server_says_how_to_start_one(workspace: Path) -> None:
    done = leanrec(workspace, "recommend", "--user", f"{RAW_USER}3", "--server", "127.0.0.1:9")
    assert done.returncode == 2
    assert "127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def test_serving_on_a_taken_port_says_which(workspace: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = yaml.safe_load((workspace / "run.yaml").read_text())
        settings["serving"]["grpc_port"] = port
        (workspace / "taken.yaml").write_text(yaml.safe_dump(settings))
        done = leanrec(workspace, "serve", "taken.yaml")
    assert done.returncode == 2
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr


def nan_label(rows: list[dict]) -> None:
    rows[5]["rating"] = "nan"


def future_event(rows: list[dict]) -> None:
    rows[5]["timestamp"] = "4102444800"


def duplicate_event(rows: list[dict]) -> None:
    rows.append(dict(rows[5]))


def unknown_item(rows: list[dict]) -> None:
    rows[5]["item_id"] = "not-an-item"


def missing_column(rows: list[dict]) -> None:
    for row in rows:
        row["ratnig"] = row.pop("rating")


def wrong_type(rows: list[dict]) -> None:
    rows[5]["rating"] = "good"


@pytest.mark.parametrize(
    ("spoil", "status", "sentence"),
    [
        (nan_label, 3, r"gate validation: .*rating"),
        (future_event, 3, r"gate validation: .*timestamp.*future"),
        (duplicate_event, 3, r"gate validation: .*event"),
        (unknown_item, 3, r"gate validation: .*item_id"),
        (missing_column, 2, r"events\.csv.*'rating'.*ratnig"),
        (wrong_type, 2, r"events\.csv.*rating.*good"),
    ],
)
def test_a_spoilt_table_stops_the_run_with_one_sentence(
    workspace: Path, spoil, status: int, sentence: str
) -> None:
    rows = read_rows(workspace / "raw/events.csv")
    spoil(rows)
    write_rows(workspace / "raw/spoilt.csv", tuple(rows[0]), [tuple(row.values()) for row in rows])
    refuse(workspace, "raw/spoilt.csv", status, sentence.replace("events\\.csv", "spoilt\\.csv"))


@pytest.mark.parametrize(("content", "sentence"), [(b"", "empty"), (b"PAR1" + b"x" * 100, "Parquet|parquet")])
def test_a_file_that_cannot_be_read_stops_the_run_with_one_sentence(
    workspace: Path, content: bytes, sentence: str
) -> None:
    name = "raw/broken.parquet" if content else "raw/broken.csv"
    (workspace / name).write_bytes(content)
    refuse(workspace, name, 2, sentence)


def refuse(workspace: Path, events: str, status: int, sentence: str) -> None:
    """The run on `events` ends with `status` and one sentence, and the releases are untouched."""
    before = digests(workspace / "stores/models")
    settings = yaml.safe_load((workspace / "run.yaml").read_text())
    settings["data"]["events"] = events
    if events.endswith(".parquet"):
        settings["data"]["source"] = "parquet"
    (workspace / "spoilt.yaml").write_text(yaml.safe_dump(settings))
    done = leanrec(workspace, "run", "spoilt.yaml")
    assert done.returncode == status, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert re.search(sentence, errors[0]), errors[0]
    assert "Traceback" not in done.stderr
    assert digests(workspace / "stores/models") == before
    assert leftovers(workspace) == []
    assert errors[0].removeprefix("error: ")[:40] in (workspace / "runs/latest/report.json").read_text()


def test_a_run_on_a_full_disk_says_so_and_keeps_the_last_release(workspace: Path) -> None:
    before = digests(workspace / "stores/models")
    shutil.copy(workspace / "run.yaml", workspace / "full.yaml")
    settings = yaml.safe_load((workspace / "run.yaml").read_text())
    settings["training"]["seed"] = 99
    (workspace / "full.yaml").write_text(yaml.safe_dump(settings))
    limited = f"ulimit -f 40; exec {sys.executable} -c 'from leanrec.cli import main; main()' run full.yaml"
    done = subprocess.run(["bash", "-c", limited], cwd=workspace, capture_output=True, text=True, timeout=900)
    assert done.returncode == 2, done.stderr
    assert "disk is full" in done.stderr
    assert digests(workspace / "stores/models") == before
    assert leftovers(workspace) == []


def test_ctrl_c_in_each_step_leaves_nothing_half_written(tmp_path: Path) -> None:
    make_workspace(tmp_path)
    for step in STEPS:
        # The last step may be over before the signal arrives: then it is tried again.
        for _ in range(5 if step == STEPS[-1] else 1):
            status, stderr = interrupted_in(tmp_path, step)
            if status != 0:
                break
        assert status == 2, f"{step}: {stderr}"
        assert stderr.splitlines()[-1].startswith("error: stopped by hand"), f"{step}: {stderr}"
        assert "Traceback" not in stderr
        wait_for_no_process(tmp_path)
        assert leftovers(tmp_path) == [], step
    published = json.loads((tmp_path / "stores/models/release.json").read_text())
    outcome = succeed(tmp_path, "run", "run.yaml")
    assert outcome["release"]["version"] == published["stable"] + 1


def interrupted_in(folder: Path, step: str) -> tuple[int, str]:
    """The exit status and the errors of a run that gets a Ctrl-C in `step`."""
    process = subprocess.Popen(
        [*LEANREC, "run", "run.yaml"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    interrupt_in(process, folder, step)
    _, stderr = process.communicate(timeout=600)
    return process.returncode, stderr


def interrupt_in(process: subprocess.Popen, folder: Path, step: str) -> None:
    """Send Ctrl-C to the run as soon as its journal says that `step` has started."""
    known = set(folder.glob("runs/tiny-*"))
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        for run in set(folder.glob("runs/tiny-*")):
            if run in known and (run / "facts.json").exists():
                continue
            lines = read_lines(run / "journal.jsonl")
            if any(line["kind"] == "started" and line["step"] == step for line in lines):
                os.kill(process.pid, signal.SIGINT)
                return
        time.sleep(0.02)
    pytest.fail(f"step {step} did not start: {process.communicate()[1]}")
