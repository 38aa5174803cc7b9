"""User rows in a real Redis."""

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from online_parity import assert_online_rows_are_the_latest_offline_rows
from pushed_rows import assert_pushed_rows_are_materialized_rows
from redis import Redis, RedisError
from small_world import build, event, some_events

from leanrec.config import FeatureStoreSettings
from leanrec.errors import FeatureStoreError
from leanrec.features.online import OnlineUsers
from leanrec.features.project import REDIS_PASSWORD_VARIABLE
from leanrec.features.store import materialize_features

pytestmark = pytest.mark.integration

EVENTS = some_events()
PASSWORD = '1e5,="\\ ü'
"""Every character that Feast's connection string has a meaning for."""


class Server:
    """A redis-server of the test's own, in a temporary folder, on a free port."""

    def __init__(self, folder: Path, password: str | None = None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        lines = ["bind 127.0.0.1", f"port {self.port}", 'save ""', f"dir {folder}"]
        self.client = Redis("127.0.0.1", self.port, password=password)
        config = folder / "redis.conf"
        if password:
            escaped = password.replace("\\", "\\\\").replace('"', '\\"')
            lines.append(f'requirepass "{escaped}"')
        config.write_text("\n".join(lines), encoding="utf-8")
        self.process = subprocess.Popen(["redis-server", str(config)], stdout=subprocess.DEVNULL)

    def wait(self) -> "Server":
        for _ in range(200):
            try:
                self.client.ping()
                return self
            except RedisError:
                assert self.process.poll() is None, "redis-server ended"
                time.sleep(0.05)
        raise AssertionError("redis-server does not answer")

    def stop(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    if not shutil.which("redis-server"):
        pytest.fail("redis-server is not installed; apt-get install redis-server")
    servers: list[Server] = []

    def start_one(password: str | None = None) -> Server:
        servers.append(Server(tmp_path, password))
        return servers[-1].wait()

    yield start_one
    for server in servers:
        server.stop()


def settings_for(server: Server, folder: Path) -> FeatureStoreSettings:
    return FeatureStoreSettings(
        repository=str(folder / "store"), online="redis", redis=f"127.0.0.1:{server.port}"
    )


def test_the_online_row_is_the_offline_row_at_the_latest_time(
    start: Callable[..., Server], tmp_path: Path
) -> None:
    settings = settings_for(start(), tmp_path)
    world = build(tmp_path, EVENTS)
    counts = materialize_features(settings, features=world["features"], output=tmp_path / "counts.json")
    assert counts == {"online": "redis", "user_profile": 6, "user_seen": 6, "user_activity": 6}
    assert_online_rows_are_the_latest_offline_rows(settings, world, EVENTS, tmp_path)
    assert OnlineUsers(settings).row("a stranger") is None


def test_a_pushed_row_is_the_materialized_one(start: Callable[..., Server], tmp_path: Path) -> None:
    assert_pushed_rows_are_materialized_rows(settings_for(start(), tmp_path), tmp_path)


def test_changed_values_arrive_vanished_users_go_and_foreign_keys_stay(
    start: Callable[..., Server], tmp_path: Path
) -> None:
    server = start()
    settings = settings_for(server, tmp_path)
    server.client.set("somebody else's", "data")
    users = OnlineUsers(settings)
    with pytest.raises(FeatureStoreError, match="no user rows to read"):
        users.row("u1")
    first = build(tmp_path, EVENTS)
    materialize_features(settings, features=first["features"], output=tmp_path / "counts.json")
    before = users.row("u1")
    # u5 asked to be forgotten; u1's last event is another item, at the same timestamp as before.
    last = max((e for e in EVENTS if e.user_id == "u1"), key=lambda e: (e.timestamp, e.event_id))
    later = [e for e in EVENTS if e.user_id != "u5" and e != last] + [last._replace(item_id="never seen")]
    second = build(tmp_path / "later", later)
    materialize_features(settings, features=second["features"], output=tmp_path / "counts.json")
    after = users.row("u1")
    assert before is not None
    assert after is not None
    assert np.array_equal(after.history, [*before.history[:-1], 5])
    assert users.row("u5") is None
    assert server.client.get("somebody else's") == b"data"
    assert len(server.client.keys()) == 5 + 1


def test_a_password_arrives_whole(
    start: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(start(PASSWORD), tmp_path)
    world = build(tmp_path, EVENTS)
    monkeypatch.setenv(REDIS_PASSWORD_VARIABLE, "wrong")
    with pytest.raises(FeatureStoreError, match="Redis does not answer"):
        materialize_features(settings, features=world["features"], output=tmp_path / "counts.json")
    monkeypatch.setenv(REDIS_PASSWORD_VARIABLE, PASSWORD)
    materialize_features(settings, features=world["features"], output=tmp_path / "counts.json")
    assert OnlineUsers(settings).row("u1") is not None
    registry = (tmp_path / "store" / "registry.db").read_bytes()
    assert PASSWORD.encode() not in registry


def test_a_stopped_redis_is_one_clear_sentence(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start()
    settings = settings_for(server, tmp_path)
    world = build(tmp_path, [event(1, "u1", "a", 1), event(2, "u1", "b", 2)])
    materialize_features(settings, features=world["features"], output=tmp_path / "counts.json")
    users = OnlineUsers(settings)
    assert users.row("u1") is not None
    server.stop()
    sentence = rf"^feature_store\.redis 127\.0\.0\.1:{server.port}: Redis does not answer \(.*\); start it"
    for attempt in (
        lambda: users.row("u1"),
        lambda: OnlineUsers(settings).row("u1"),
        lambda: materialize_features(settings, features=world["features"], output=tmp_path / "again.json"),
    ):
        with pytest.raises(FeatureStoreError, match=sentence) as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "again.json").exists()
