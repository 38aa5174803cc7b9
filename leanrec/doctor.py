"""Look this machine over: what LeanRec needs, what is there, and how to mend what is not."""

from __future__ import annotations

import importlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from leanrec.config import ServingSettings

MIN_MEMORY_BYTES = 4 * 2**30
MIN_SHARED_MEMORY_BYTES = 64 * 2**20
MIN_DISK_BYTES = 5 * 2**30
SERVING_PYTHON = Path(".venv-serving/bin/python")
"""Looked for in the working directory, then beside the code, unless `SERVING_VARIABLE` names another."""
SERVING_VARIABLE = "LEANREC_SERVING_PYTHON"

PINNED = {
    "torch": "2.13.0",
    "torchrec": "1.8.0",
    "kfp": "2.17.0",
    "feast": "0.67.0",
    "great-expectations": "1.24.1",
    "onnx": "1.23.0",
    "onnxruntime": "1.31.0",
    "tritonclient": "2.73.0",
}
"""Versions that were tested together; requirements/pipeline.lock holds all of them."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked at: `state` is "ok", "warning" or "error"; `mend` says what to do."""

    subject: str
    state: str
    seen: str
    mend: str = ""


def examine(serving: ServingSettings | None = None) -> list[Finding]:
    """Everything that the main job depends on, each looked at for real."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _versions,
        _torch_operators,
        _host,
        _serving_environment,
        lambda: _ports(serving or ServingSettings()),
    ]
    return [finding for check in checks for finding in check()]


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    state = "ok" if sys.version_info[:2] == (3, 11) else "error"
    yield Finding(subject="Python", state=state, seen=version, mend="install Python 3.11, then `make setup`")


def _versions() -> Iterator[Finding]:
    for package, wanted in PINNED.items():
        try:
            seen = metadata.version(package)
        except metadata.PackageNotFoundError:
            yield Finding(subject=package, state="error", seen="not installed", mend="`make setup`")
            continue
        same = seen.split("+")[0] == wanted
        yield Finding(
            subject=package,
            state="ok" if same else "warning",
            seen=seen,
            mend="" if same else f"{wanted} was tested; `make setup` installs it",
        )


def _torch_operators() -> Iterator[Finding]:
    """fbgemm's operators load only beside the torch that they were built for."""
    mend = "torch 2.13 goes with fbgemm-gpu-cpu 1.8 (fbgemm-gpu 1.8 on a GPU); `make setup` installs both"
    try:
        torch = importlib.import_module("torch")
        importlib.import_module("fbgemm_gpu")
        lengths = torch.ops.fbgemm.asynchronous_complete_cumsum(torch.tensor([1, 2]))
        works = lengths.tolist() == [0, 1, 3]
        seen = "operators load and answer" if works else f"a wrong answer: {lengths.tolist()}"
    except Exception as error:  # whatever an ABI mismatch raises is the finding
        works, seen = False, f"{type(error).__name__}: {str(error).splitlines()[0]}"
    yield Finding(
        subject="torch + fbgemm", state="ok" if works else "error", seen=seen, mend="" if works else mend
    )


def _host() -> Iterator[Finding]:
    import psutil

    memory = psutil.virtual_memory().available
    yield _enough("free memory", memory, MIN_MEMORY_BYTES, "close something, or lower training.num_processes")
    shared = Path("/dev/shm")  # noqa: S108 - looked at, not written
    if shared.exists():
        free = shutil.disk_usage(shared).free
        mend = "give the container a larger /dev/shm (docker --shm-size, an emptyDir with medium Memory)"
        yield _enough("shared memory", free, MIN_SHARED_MEMORY_BYTES, mend)
    yield _enough("free disk here", shutil.disk_usage(Path.cwd()).free, MIN_DISK_BYTES, "free some space")


def _enough(subject: str, seen: int, wanted: int, mend: str) -> Finding:
    enough = seen >= wanted
    return Finding(
        subject=subject,
        state="ok" if enough else "warning",
        seen=f"{seen / 2**30:.1f} GiB",
        mend="" if enough else f"less than {wanted / 2**30:.1f} GiB: {mend}",
    )


def _serving_environment() -> Iterator[Finding]:
    probe = (
        "import numpy, onnxruntime, pathlib, importlib.util as u;"
        "root = pathlib.Path(u.find_spec('pytriton').origin).parent / 'tritonserver';"
        "print(numpy.__version__, onnxruntime.__version__, (root / 'bin' / 'tritonserver').exists())"
    )
    named = os.environ.get(SERVING_VARIABLE)
    beside = Path(__file__).parent.parent / SERVING_PYTHON
    candidates = [Path(named)] if named else [SERVING_PYTHON, beside]
    python = next((path for path in candidates if path.is_file()), None)
    if python is None:
        mend = f"set {SERVING_VARIABLE} to a Python that is there, or unset it" if named else ""
        mend = mend or "`make setup` creates it"
        yield Finding(subject="Triton", state="error", seen=f"no {candidates[0]}", mend=mend)
        return
    answer = subprocess.run([str(python), "-c", probe], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        last = (answer.stderr.strip().splitlines() or ["no answer"])[-1]
        yield Finding(subject="Triton", state="error", seen=last, mend="`make setup` installs it again")
        return
    numpy_version, runtime_version, found = answer.stdout.split()
    fits = numpy_version.startswith("1.")
    yield Finding(
        subject="Triton's numpy",
        state="ok" if fits else "error",
        seen=numpy_version,
        mend="" if fits else "under numpy 2 its Python stub corrupts tensors; `make setup` installs 1.26",
    )
    yield Finding(
        subject="Triton",
        state="ok" if found == "True" else "error",
        seen=f"binary {'found' if found == 'True' else 'missing'}, onnxruntime {runtime_version}",
        mend="" if found == "True" else "`make setup` installs the nvidia-pytriton wheel again",
    )
    check = [sys.executable, "-m", "serving.build_backend", "--check", "--python", str(python)]
    is_native = subprocess.run(check, capture_output=True, check=False).returncode == 0
    slower = "graphs run in Python, more slowly; with a C++ compiler `make setup` builds the native one"
    yield Finding(
        subject="Triton's backend",
        state="ok" if is_native else "warning",
        seen="native" if is_native else "Python",
        mend="" if is_native else slower,
    )


def _ports(serving: ServingSettings) -> Iterator[Finding]:
    for name in ("http_port", "grpc_port", "metrics_port"):
        port = getattr(serving, name)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((serving.host, port))
                free = True
            except OSError:
                free = False
        yield Finding(
            subject=f"port {port} ({name})",
            state="ok" if free else "warning",
            seen="free" if free else "taken",
            mend="" if free else f"stop what listens there, or set serving.{name} (0 takes a free port)",
        )
