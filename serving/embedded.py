"""Run the real Triton on one model repository: `python -m serving.embedded --repository DIR`.

The launcher finds tritonserver in the serving environment, proves that tensors arrive as sent where Python
serves them, prints the addresses as one line of JSON, follows the repository's release.json, and ends with
everything that it started. It needs the standard library only.

Exit status: 0 after SIGINT or SIGTERM, 2 with one sentence when it cannot serve.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from leanrec.errors import LeanRecError, ServingError
from leanrec.files import write_json
from serving.environment import BACKENDS, ServingEnvironment, find_environment
from serving.native_backend import MODULE
from serving.reloader import Reloader, configured_models, models_to_start_with
from serving.server import Ports, Triton, reserve_ports

WORK_PREFIX = "leanrec-triton-"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Triton's Python backend keeps its regions
SMALLEST_CACHE = 4096
"""Bytes; with much less Triton 2.51 neither starts nor ends."""
NUMBERS = [1, 2, 3]
ECHO = """
name: "echo"
backend: "python"
input [ { name: "sent" data_type: TYPE_INT64 dims: [ -1 ] } ]
output [ { name: "received" data_type: TYPE_INT64 dims: [ -1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = _parse(arguments)
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    if options.until_eof:
        threading.Thread(target=_await_eof, args=(stopping,), daemon=True).start()
    try:
        serve(options, stopping)
    except LeanRecError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


def serve(options: argparse.Namespace, stopping: threading.Event) -> None:
    """Start Triton, announce it, follow the releases until `stopping` is set, and end it for sure."""
    repository: Path = options.repository.absolute()
    if not repository.is_dir():
        raise ServingError(f"{repository}: no such folder; --repository names a Triton model repository")
    if not configured_models(repository) and not options.allow_empty:
        raise ServingError(
            f"{repository}: it holds no model; publish a release first, or wait for one with --allow-empty"
        )
    environment = find_environment(options.python)
    native = _choose_backend(environment, options.backend)
    ports = reserve_ports(
        options.host, http=options.http_port, grpc=options.grpc_port, metrics=options.metrics_port
    )
    with _work_folder() as work:
        triton = Triton(ports, None if options.verbose else work / "triton.log")
        announcement = Announcement(options.announce, ports, native=native)
        try:
            reloader = Reloader(repository, triton.ask, announcement.update)
            command = _command(environment, work, repository, options, native=native)
            triton.start(command, environment.variables())
            if not triton.wait_until_live(options.timeout_s, stopping):
                return
            if not native:
                _prove_round_trip(triton)
            reloader.check_started()
            announcement.publish()
            reloader.start()
            while not stopping.wait(0.2):
                triton.check_running()
            reloader.stop()
        finally:
            announcement.withdraw()
            triton.stop()


class Announcement:
    """What the launcher tells the world: one JSON line, and a file that is always whole.

    The file also says which versions are loaded, and `problem` says why the newest state is not.
    """

    def __init__(self, file: Path | None, ports: Ports, *, native: bool) -> None:
        self._file = file
        backend = "native" if native else "python"
        self._facts: dict[str, Any] = {**ports.addresses(), "pid": os.getpid(), "backend": backend}
        self._public = False

    def publish(self) -> None:
        """Say that the server is ready."""
        self._public = True
        self._write()
        print(self._in_words() if sys.stdout.isatty() else json.dumps(self._facts), flush=True)

    def update(self, models: dict[str, list[int]] | None, problem: str | None) -> None:
        """Note the versions that answer, and what keeps others from doing so; a problem is logged."""
        self._facts |= {"problem": problem} if models is None else {"models": models, "problem": problem}
        if problem:
            print(f"problem: {problem}", file=sys.stderr, flush=True)
        if self._public:
            self._write()

    def withdraw(self) -> None:
        """Take the file away, so that nobody goes to a server that is gone."""
        if self._public and self._file:
            self._file.unlink(missing_ok=True)

    def _in_words(self) -> str:
        """For a person at a terminal."""
        models = self._facts.get("models") or {}
        served = ", ".join(f"{name} {max(versions)}" for name, versions in models.items() if versions)
        way = "" if self._facts["backend"] == "native" else " through Python, more slowly than it could"
        lines = [f"Triton serves {served or 'no release yet'}{way}; Ctrl-C stops it."]
        return "\n".join(lines + [f"  {name:<8}{self._facts[name]}" for name in ("grpc", "http", "metrics")])

    def _write(self) -> None:
        if self._file:
            write_json(self._file, self._facts)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m serving.embedded", description=__doc__.splitlines()[0])
    parser.add_argument("--repository", type=Path, required=True, help="Triton model repository")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--http-port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--grpc-port", type=int, default=8001, help="0 takes a free one")
    parser.add_argument("--metrics-port", type=int, default=8002, help="0 takes a free one")
    parser.add_argument("--python", type=Path, help="python of the serving environment")
    parser.add_argument(
        "--backend",
        choices=["native", "python"],
        help="what runs the graphs: the compiled backend (the default where it is built), or Python",
    )
    parser.add_argument("--announce", type=Path, help="file that gets the addresses once Triton is ready")
    parser.add_argument("--until-eof", action="store_true", help="end when standard input is closed")
    parser.add_argument("--allow-empty", action="store_true", help="start before the first release")
    parser.add_argument("--timeout-s", type=float, default=120, help="seconds Triton may take to start")
    parser.add_argument(
        "--response-cache-bytes",
        type=int,
        default=0,
        metavar="BYTES",
        help="memory for answers to repeated requests, for models whose config.pbtxt asks for it; 0: none",
    )
    parser.add_argument("--verbose", action="store_true", help="Triton's log on standard error")
    return parser.parse_args(arguments)


def _await_eof(stopping: threading.Event) -> None:
    """Set `stopping` when whoever holds the other end of standard input has closed it or is gone."""
    while os.read(0, 1024):
        pass
    stopping.set()


def _choose_backend(environment: ServingEnvironment, asked: str | None) -> bool:
    """Whether the compiled backend serves; a ServingError when it is asked for and is not there."""
    if asked == "native" and not environment.native:
        raise ServingError(
            f"{environment.packages}: the native backend was not built; {MODULE} builds it where there is a"
            " C++ compiler, or leave --backend out"
        )
    return environment.native and asked != "python"


def _command(
    environment: ServingEnvironment,
    work: Path,
    repository: Path,
    options: argparse.Namespace,
    *,
    native: bool,
) -> list[str]:
    backends, checks = work / "backends", work / "checks"
    environment.lay_out_backends(backends, native=native)
    checks.mkdir()
    models = models_to_start_with(repository)
    if not native:
        (checks / "echo" / "1").mkdir(parents=True)
        (checks / "echo" / "config.pbtxt").write_text(ECHO, encoding="utf-8")
        shutil.copy2(BACKENDS / "echo" / "model.py", checks / "echo" / "1" / "model.py")
        models = [*models, "echo"]
    return [
        str(environment.binary),
        f"--model-repository={repository}",
        f"--model-repository={checks}",
        f"--backend-directory={backends}",
        f"--backend-config=python,shm-region-prefix-name={work.name}",
        "--model-control-mode=explicit",
        # The launcher looks at each model itself (check_started) and says what is wrong in one sentence.
        "--exit-on-error=false",
        *(f"--load-model={name}" for name in models),
        "--exit-timeout-secs=5",
        "--allow-gpu-metrics=false",
        f"--log-info={str(options.verbose).lower()}",
        *_cache_options(environment, options.response_cache_bytes),
    ]


def _cache_options(environment: ServingEnvironment, size: int) -> list[str]:
    """A response cache of `size` bytes for the models whose configuration asks for it; none for 0."""
    if not size:
        return []
    if size < SMALLEST_CACHE:
        raise ServingError(
            f"a response cache of {size} bytes cannot be had: give 0 (none) or at least {SMALLEST_CACHE}"
        )
    return [f"--cache-directory={environment.triton / 'caches'}", f"--cache-config=local,size={size}"]


def _prove_round_trip(triton: Triton) -> None:
    """Send numbers through the Python stub; a ServingError when they do not come back as sent."""
    sent = {"name": "sent", "shape": [len(NUMBERS)], "datatype": "INT64", "data": NUMBERS}
    status, answer = triton.ask("POST", "/v2/models/echo/infer", {"inputs": [sent]})
    received = answer["outputs"][0]["data"] if status == 200 else answer
    if received != NUMBERS:
        raise ServingError(
            f"the start-up round trip sent {NUMBERS} and received {received}: Triton's Python stub cannot be"
            " trusted with this environment; install requirements/serving.lock afresh (numpy must be 1.26)"
        )
    triton.ask("POST", "/v2/repository/models/echo/unload", {})


@contextmanager
def _work_folder() -> Iterator[Path]:
    """A temporary folder held by a lock, removed at the end with the shared memory named after it.

    A launcher that was killed could not clean up; its folder is known by its free lock and goes now.
    """
    with ExitStack() as held:
        with _locked(Path(tempfile.gettempdir())):  # nobody meets a folder between its making and its lock
            for stale in Path(tempfile.gettempdir()).glob(f"{WORK_PREFIX}*"):
                with suppress(OSError), _locked(stale, fcntl.LOCK_NB):  # OSError: another launcher holds it
                    _remove(stale)
            work = Path(tempfile.mkdtemp(prefix=WORK_PREFIX))
            held.enter_context(_locked(work))
        held.callback(_remove, work)
        yield work


@contextmanager
def _locked(folder: Path, flags: int = 0) -> Iterator[None]:
    """A folder locked for this process alone; OSError with LOCK_NB where another holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | flags)
        yield
    finally:
        os.close(descriptor)


def _remove(work: Path) -> None:
    for region in SHARED_MEMORY.glob(f"*{work.name}*"):
        region.unlink(missing_ok=True)
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
