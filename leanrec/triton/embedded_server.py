"""The real Triton on a repository, for as long as a `with` block lasts."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from leanrec.errors import ServingError
from leanrec.files import read_json

STOP_S = 20.0
"""Seconds that the launcher gets to stop before it is killed (the kernel then kills its Triton)."""


@dataclass(frozen=True, kw_only=True)
class EmbeddedServer:
    """Addresses (host:port) of a running Triton."""

    grpc: str
    http: str
    metrics: str
    pid: int
    """The launcher's process."""
    announcement: Path

    def loaded(self) -> dict[str, Any]:
        """`models`: the versions of each model that answer now; `problem`: why others do not, or None."""
        facts = read_json(self.announcement)
        return {"models": facts["models"], "problem": facts["problem"]}


@contextmanager
def embedded_server(
    repository: Path, announcement: Path, *, response_cache_bytes: int = 0, backend: str | None = None
) -> Iterator[EmbeddedServer]:
    """Start Triton on `repository` with free ports, and end it with the block, whatever happens.

    `announcement` is a file that the launcher keeps while it runs; its folder must exist. The launcher
    also ends when this process dies, because its standard input closes then. `response_cache_bytes` is
    the memory for answers to repeated requests (`ModelConfiguration.response_cache`), 0: none. `backend` is
    what runs the graphs, native or python; None: the native one where it is built.

    Raises ServingError, with the launcher's own sentence, when Triton does not start.
    """
    command = [sys.executable, "-m", "serving.embedded", "--repository", str(repository)]
    command += ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    command += ["--announce", str(announcement), "--until-eof"]
    command += ["--response-cache-bytes", str(response_cache_bytes)]
    command += ["--backend", backend] if backend else []
    with tempfile.TemporaryFile("w+", encoding="utf-8") as complaints:
        launcher = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, text=True
        )
        try:
            yield _await_announcement(launcher, announcement, complaints)
        finally:
            _stop(launcher)


def _await_announcement(
    launcher: subprocess.Popen[str], announcement: Path, complaints: IO[str]
) -> EmbeddedServer:
    assert launcher.stdout is not None
    line = launcher.stdout.readline()
    if not line:
        complaints.seek(0)
        reason = complaints.read().strip().removeprefix("error: ")
        raise ServingError(reason or "the launcher of Triton ended without a word")
    facts = json.loads(line)
    return EmbeddedServer(
        announcement=announcement, **{key: facts[key] for key in ("grpc", "http", "metrics", "pid")}
    )


def _stop(launcher: subprocess.Popen[str]) -> None:
    launcher.terminate()
    try:
        launcher.communicate(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        launcher.kill()
        launcher.communicate()
