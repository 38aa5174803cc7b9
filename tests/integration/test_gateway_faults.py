"""Faults under load: whatever breaks, every answer is right or says what it fell back to; none fails."""

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gateway_load import Answered, asking, fill_store, signal_tree
from gateway_world import headers_of, publish, running_gateway, settings_of
from redis import Redis, RedisError
from waiting import wait_for

from leanrec.config import FeatureStoreSettings

pytestmark = pytest.mark.integration


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


def report(what: str, answers: list[Answered], fault: list[Answered], recovered_s: float) -> None:
    """The figures of docs/reliability.md; `pytest -s` shows them."""
    slowest = max(answer.seconds for answer in fault) * 1e3
    outcomes = dict(Counter(answer.degraded for answer in fault))
    print(
        f"\n{what}: {len(answers)} answers, {len(fault)} during the fault {outcomes}, slowest then"
        f" {slowest:.0f} ms, full answers again after {recovered_s:.2f} s"
    )


def full_again(load, before: int) -> bool:
    """Whether the newest answers, after number `before`, are all full ones."""
    newest = load.since(before)[-10:]
    return len(newest) == 10 and {answer.degraded for answer in newest} == {None}


def test_triton_is_killed_started_again_and_stopped_for_two_seconds(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    store = FeatureStoreSettings(repository=str(tmp_path / "store"))
    users = fill_store(store, tmp_path)
    triton = Triton(tmp_path / "models")
    settings = settings_of(tmp_path, store, triton=[triton.grpc])
    headers = headers_of(settings)
    with ended(triton):
        triton.start()
        with (
            running_gateway(tmp_path, settings) as (gateway, url),
            asking(url, headers, users) as load,
        ):
            wait_for(lambda: full_again(load, 0))

            killed = len(load.answers)
            triton.kill()
            wait_for(lambda: len(load.answers) > killed + 100)
            triton.start()
            back = time.perf_counter()
            started = len(load.answers)
            wait_for(lambda: full_again(load, started))
            down = load.answers[killed + 10 : started]
            report("Triton killed and restarted", load.answers, down, time.perf_counter() - back)
            assert "popular_items" in {answer.degraded for answer in down}

            stopped = len(load.answers)
            triton.send(signal.SIGSTOP)
            time.sleep(2)
            resumed = len(load.answers)
            triton.send(signal.SIGCONT)
            back = time.perf_counter()
            wait_for(lambda: full_again(load, resumed))
            slow = load.answers[stopped:resumed]
            report("Triton stopped for 2 s", load.answers, slow, time.perf_counter() - back)
            assert "popular_items" in {answer.degraded for answer in slow}
            assert gateway.poll() is None
    load.assert_right()


def test_redis_is_stopped_and_started_again(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    redis = RedisServer(tmp_path)
    store = FeatureStoreSettings(
        repository=str(tmp_path / "store"), online="redis", redis=f"127.0.0.1:{redis.port}"
    )
    triton = Triton(tmp_path / "models")
    settings = settings_of(
        tmp_path,
        store,
        triton=[triton.grpc],
        deadline_ms=20_000,
        store_deadline_ms=1000,
        user_cache_ttl_s=0.1,
    )
    headers = headers_of(settings)
    with ended(triton, redis):
        redis.start()
        users = fill_store(store, tmp_path)
        triton.start()
        with running_gateway(tmp_path, settings) as (_, url), asking(url, headers, users) as load:
            # Whom the store has not answered for yet has no row that could be stale.
            wait_for(lambda: {answer.user for answer in load.answers if not answer.degraded} == set(users))

            stopped = len(load.answers)
            redis.stop()
            wait_for(lambda: "stale_row" in {answer.degraded for answer in load.since(stopped)})
            wait_for(lambda: len(load.answers) > stopped + 100)
            redis.start()
            back = time.perf_counter()
            started = len(load.answers)
            wait_for(lambda: full_again(load, started))
            down = load.answers[stopped:started]
            report("Redis stopped and restarted", load.answers, down, time.perf_counter() - back)
    load.assert_right()
    assert {answer.degraded for answer in load.answers[stopped:]} == {None, "stale_row"}
