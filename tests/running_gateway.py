"""A gateway as a process of its own, over a tiny release in a real Triton and user rows in a real store."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import yaml
from gateway_process import start_gateway, stop_gateway
from small_world import START, Event, build
from tiny_release import SPEC, write_artifacts

from leanrec.config import DataSettings, FeatureStoreSettings, ReleaseSettings
from leanrec.data.event_log import read_events
from leanrec.data.pseudonyms import pseudonym_of
from leanrec.features.store import materialize_features
from leanrec.release.publish import publish_release
from leanrec.schema import ModelSpec
from leanrec.triton.embedded_server import EmbeddedServer, embedded_server

API_KEY = "a key of the tests"
PSEUDONYM_KEY = "sixteen bytes and more of the tests"
ITEM_IDS = tuple(f"i{n}" for n in range(1, SPEC.num_items))
USERS = tuple(f"user {n}" for n in range(8))


@dataclass
class GatewayWorld:
    """A folder with a release, a store and a configuration; the gateway is started, killed, started again."""

    folder: Path
    triton: EmbeddedServer
    process: subprocess.Popen[str] | None = None
    url: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def event_log(self) -> Path:
        return self.folder / "events"

    def start(self) -> str:
        """Start the gateway; its address, once it answers."""
        config = self.folder / "run.yaml"
        config.write_text(yaml.safe_dump(self.settings))
        self.process, self.url = start_gateway(config, self.folder / "gateway.log", PSEUDONYM_KEY)
        return self.url

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        return stop_gateway(self.process)

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"X-API-Key": API_KEY}, timeout=60)

    def events(self) -> list[dict[str, Any]]:
        return read_events(self.event_log).to_pylist()

    def log(self) -> str:
        """What the gateway wrote to standard error."""
        return (self.folder / "gateway.log").read_text()


def spec_for(users: Sequence[str]) -> ModelSpec:
    """The tiny release's, with an index and so a score of his own for every one of `users`."""
    return replace(SPEC, num_users=len(users) + 1)


@contextmanager
def gateway_world(folder: Path, users: Sequence[str] = USERS) -> Iterator[GatewayWorld]:
    """Triton on a tiny release, a store with rows of `users`, and a gateway that is ready to start."""
    artifacts = write_artifacts(folder / "artifacts", spec=spec_for(users))
    release = ReleaseSettings(repository=str(folder / "models"))
    publish_release(release, name="tiny", **artifacts, lineage={}, output=folder / "release.json")
    _materialize(folder, users)
    keys = folder / "gateway.keys"
    keys.write_text(f"tests:{hashlib.sha256(API_KEY.encode()).hexdigest()}\n")
    keys.chmod(0o600)
    with embedded_server(folder / "models", folder / "server.json") as triton:
        world = GatewayWorld(folder, triton)
        world.settings = {
            "name": "tiny",
            "data": {"source": "synthetic"},
            "validation": {"min_rating": 1, "max_rating": 5},
            "feature_store": {"repository": str(folder / "store")},
            "release": {"repository": str(folder / "models")},
            "gateway": {
                "port": 0,
                "triton": [triton.grpc],
                "keys": str(keys),
                "event_log": str(world.event_log),
                # The machine of the tests may be busy: what is slow is not what is tested.
                "deadline_ms": 30_000,
                "hedge_after_ms": 15_000,
                "store_deadline_ms": 30_000,
                "requests_per_s": 100_000,
                "burst": 100_000,
            },
        }
        try:
            yield world
        finally:
            if world.process is not None:
                world.process.kill()
                world.process.wait()


def _materialize(folder: Path, users: Sequence[str]) -> None:
    events = [
        Event(f"e{u}-{n}", pseudonym_of(user, PSEUDONYM_KEY.encode()), ITEM_IDS[(u + n) % 12], START, 1 + n)
        for u, user in enumerate(users)
        for n in range(5)
    ]
    data = DataSettings(source="csv", events="e", items="i")
    world = build(folder / "world", events, items=ITEM_IDS, data=data, history_length=SPEC.history_length)
    store = FeatureStoreSettings(repository=str(folder / "store"))
    materialize_features(store, features=world["features"], output=folder / "counts.json")
