"""One tritonserver process: started, awaited, spoken to over HTTP, and ended for sure."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from leanrec.errors import HostError, ServingError

PR_SET_PDEATHSIG = 1
CONTROL_HEADER = "leanrec-control-key"
RESTRICTED = "model-repository,shared-memory,trace,logging"
"""Interfaces that only the launcher may use: they change what is served or how."""


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where Triton listens."""

    host: str
    http: int
    grpc: int
    metrics: int

    def addresses(self) -> dict[str, str]:
        """host:port of each interface."""
        return {name: f"{self.host}:{getattr(self, name)}" for name in ("http", "grpc", "metrics")}


def reserve_ports(host: str, *, http: int, grpc: int, metrics: int) -> Ports:
    """The ports asked for, 0 replaced by a free one; a HostError names the first that is taken."""
    found, held = {}, []
    try:
        for name, port in (("http", http), ("grpc", grpc), ("metrics", metrics)):
            probe = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.append(probe)
            try:
                probe.bind((host, port))
                probe.listen()
            except OSError as error:
                raise HostError(
                    f"port {port} ({name}) on {host} cannot be had ({error.strerror or error}); stop what"
                    f" listens there, or choose another with --{name}-port (0 takes a free one)"
                ) from None
            found[name] = probe.getsockname()[1]
    finally:
        for probe in held:
            probe.close()
    return Ports(host=host, **found)


@dataclass
class Triton:
    """A running tritonserver in a process group of its own.

    `key` is drawn afresh for each launch: whoever does not know it cannot load, unload or configure.
    """

    ports: Ports
    log: Path | None
    """File that takes the server's output; None leaves it on standard error."""
    key: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    process: subprocess.Popen | None = None

    def start(self, arguments: list[str], variables: dict[str, str]) -> None:
        """Start the server; the kernel kills it should this process die first."""
        stream: IO[bytes] | None = self.log.open("ab") if self.log else None
        launcher, libc = os.getpid(), ctypes.CDLL(None)

        def die_with_launcher() -> None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != launcher:
                os._exit(1)

        try:
            self.process = subprocess.Popen(
                [*arguments, *self._options()],
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=stream or 2,
                stderr=stream or 2,
                start_new_session=True,
                preexec_fn=die_with_launcher,  # noqa: PLW1509 - two system calls, no lock
            )
        finally:
            if stream:
                stream.close()

    def _options(self) -> list[str]:
        ports = self.ports
        return [
            f"--http-address={ports.host}",
            f"--http-port={ports.http}",
            f"--grpc-address={ports.host}",
            f"--grpc-port={ports.grpc}",
            f"--metrics-address={ports.host}",
            f"--metrics-port={ports.metrics}",
            f"--http-restricted-api={RESTRICTED}:{CONTROL_HEADER}={self.key}",
            f"--grpc-restricted-protocol={RESTRICTED}:{CONTROL_HEADER}={self.key}",
        ]

    def wait_until_live(self, timeout_s: float, stopping: threading.Event) -> bool:
        """True once the server answers, False when `stopping` is set before.

        A ServingError when the server ends or `timeout_s` passes.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.check_running()
            with contextlib.suppress(OSError):
                if self.ask("GET", "/v2/health/live")[0] == http.client.OK:
                    return True
            if stopping.wait(0.1):
                return False
        raise ServingError(f"Triton did not answer within {timeout_s:g} s; its last lines:\n{self.tail()}")

    def check_running(self) -> None:
        """A ServingError with the server's last lines when it has ended."""
        assert self.process is not None
        if self.process.poll() is not None:
            raise ServingError(
                f"Triton ended with status {self.process.returncode}; its last lines:\n{self.tail()}"
            )

    def ask(self, method: str, path: str, body: Any = None, timeout_s: float = 120) -> tuple[int, Any]:
        """One HTTP request with the control key: the status, and the answer's JSON (None when empty)."""
        host = "127.0.0.1" if self.ports.host in ("0.0.0.0", "") else self.ports.host  # noqa: S104
        connection = http.client.HTTPConnection(host, self.ports.http, timeout=timeout_s)
        try:
            connection.request(
                method,
                path,
                body=None if body is None else json.dumps(body),
                headers={CONTROL_HEADER: self.key, "Content-Type": "application/json"},
            )
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text.strip() else None
        finally:
            connection.close()

    def tail(self, lines: int = 12) -> str:
        """The last lines of the server's log."""
        if self.log is None or not self.log.exists():
            return "  (shown above)"
        text = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return "\n".join(f"  {line}" for line in text[-lines:]) or "  (it said nothing)"

    def stop(self, grace_s: float = 6.0) -> None:
        """End the server and everything it started: asked first, then killed."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(grace_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
