"""Servers that a test kills and starts again: they keep their ports, and what they have stored."""

import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from gateway_load import signal_tree
from redis import Redis, RedisError
from waiting import wait_for


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Triton:
    """A Triton on ports that it keeps when it is started again."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._ports = {name: free_port() for name in ("http", "grpc", "metrics")}
        self.grpc = f"127.0.0.1:{self._ports['grpc']}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "serving.embedded", "--repository", str(self._repository)]
        for name, port in self._ports.items():
            command += [f"--{name}-port", str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline(), "Triton did not start"

    def num_answered(self) -> int:
        """Requests for the recommender that it has answered, by its own count."""
        text = httpx.get(f"http://127.0.0.1:{self._ports['metrics']}/metrics", timeout=60).text
        counts = re.findall(r'^nv_inference_request_success\{model="recommender".*\} (\d+)', text, re.M)
        return sum(map(int, counts))

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        signal_tree(self.process.pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        assert self.process is not None
        self.process.communicate()


class RedisServer:
    """A redis-server that keeps its port and its data when it is started again."""

    def __init__(self, folder: Path) -> None:
        if not shutil.which("redis-server"):
            pytest.fail("redis-server is not installed; apt-get install redis-server")
        self.port = free_port()
        self._folder = folder
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._folder)]
        self.process = subprocess.Popen(
            ["redis-server", *options, "--save", "", "--appendonly", "yes", "--appendfsync", "always"],
            stdout=subprocess.DEVNULL,
        )
        wait_for(self._answers)

    def stop(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        try:
            with Redis("127.0.0.1", self.port) as client:
                return bool(client.ping())
        except RedisError:
            return False


@contextmanager
def ended(*servers: Triton | RedisServer) -> Iterator[None]:
    """End the servers with the block, whatever happens."""
    try:
        yield
    finally:
        for server in servers:
            if server.process and server.process.poll() is None:
                (server.kill if isinstance(server, Triton) else server.stop)()
