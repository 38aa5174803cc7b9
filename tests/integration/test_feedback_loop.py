"""The whole loop as one run: people act, the next release learns from it and is rolled out meanwhile."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import yaml
from gateway_process import start_gateway, stop_gateway
from tiny_workspace import KINDS, NUM_USERS, RAW_USER, make_workspace
from waiting import running, wait_for

from leanrec.data.pseudonyms import KEY_VARIABLE
from leanrec.files import read_json
from leanrec.triton.embedded_server import embedded_server

pytestmark = pytest.mark.integration

API_KEY = "a key of the tests"
PSEUDONYM_KEY = "sixteen bytes and more of the tests"
USERS = [f"{RAW_USER}{n}" for n in range(NUM_USERS)]
ASK, TELL = "/v1/recommendations", "/v1/events"
MOST_RATINGS = 10


def settings_of(folder: Path, **changes: dict) -> Path:
    """The workspace's configuration: absolute paths, canary releases, bounds that a tiny world keeps."""
    config = make_workspace(
        folder,
        data={
            **{table: str(folder / "raw" / f"{table}.csv") for table in ("events", "items", "users")},
            "feedback": str(folder / "events"),
        },
        feature_store={"repository": str(folder / "stores" / "features")},
        release={"repository": str(folder / "stores" / "models"), "num_golden": 16, "strategy": "canary"},
        compression={"recipes": ["fp32"]},
        training={"retriever": {"epochs": 2, "dim": 16}, "warm_epochs": 1},
        rollout={
            "stage_s": 0.5,
            "stage_timeout_s": 240,
            "observe_every_s": 0.2,
            "min_requests": 40,
            "canary_percents": [30, 60],
            "shadow_percent": 50,
            # What is tested is the way, and not whether a model of 60 users is a good one.
            "max_p99_ratio": 1000,
            "max_score_psi": 1000,
            "min_shadow_overlap": 0,
        },
    )
    return write(config, **changes)


def write(config: Path, **changes: dict) -> Path:
    """Put `changes` into the sections of the configuration."""
    settings = yaml.safe_load(config.read_text())
    for section, values in changes.items():
        settings[section] = {**settings.get(section, {}), **values}
    config.write_text(yaml.safe_dump(settings))
    return config


def leanrec(folder: Path, *arguments: str) -> dict:
    """Run the command as a person would; what it prints as JSON."""
    ended = subprocess.run(
        [sys.executable, "-c", "from leanrec.cli import main; main()", *arguments, "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), KEY_VARIABLE: PSEUDONYM_KEY},
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@dataclass
class Seen:
    """What people saw."""

    faults: list[str] = field(default_factory=list)
    releases: Counter[int] = field(default_factory=Counter)
    events: int = 0
    rated: Counter[str] = field(default_factory=Counter)
    last: dict[str, int] = field(default_factory=dict)
    """User -> the release that answered him last."""


@contextmanager
def people_act(url: str) -> Iterator[Seen]:
    """Users who ask and look, for as long as the block lasts, and rate some of what they are shown.

    Some: who has rated the whole catalogue is shown nothing.
    """
    seen, stopping = Seen(), threading.Event()

    def act(users: list[str]) -> None:
        with httpx.Client(base_url=url, headers={"X-API-Key": API_KEY}, timeout=60) as client:
            while not stopping.is_set():
                for user in users:
                    stopping.wait(0.1)  # leave the machine to the training meanwhile
                    answer = client.post(ASK, json={"user_id": user, "k": 5})
                    body = answer.json()
                    if answer.status_code != 200 or body["degraded"] or not body["items"]:
                        seen.faults.append(answer.text)
                        return
                    if body["release"] < seen.last.get(user, 0):
                        seen.faults.append(f"{user} went back to release {body['release']}")
                    seen.last[user] = body["release"]
                    seen.releases[body["release"]] += 1
                    events = looked_at(user, body)
                    if seen.rated[user] < MOST_RATINGS:
                        events.append(rated(user, body))
                        seen.rated[user] += 1
                    told = client.post(TELL, json={"events": events})
                    if told.status_code != 200:
                        seen.faults.append(told.text)
                    seen.events += len(events)

    with running([threading.Thread(target=act, args=(USERS[n::2],)) for n in range(2)], stopping):
        yield seen


def looked_at(user: str, answer: dict) -> list[dict]:
    """He was shown five items."""
    return [_event(user, answer, item["item_id"], type="impression") for item in answer["items"]]


def rated(user: str, answer: dict) -> dict:
    """He rates the first: he likes one kind of item, as in all of his past."""
    first = answer["items"][0]["item_id"]
    kind, wanted = int(first[1:]) % len(KINDS), int(user.removeprefix(RAW_USER)) % len(KINDS)
    return _event(user, answer, first, type="rating", rating=5 if kind == wanted else 2)


def _event(user: str, answer: dict, item: str, **act: object) -> dict:
    return {
        "event_id": uuid4().hex,
        "user_id": user,
        "item_id": item,
        "request_id": answer["request_id"],
        **act,
    }


def test_what_people_do_becomes_the_release_that_answers_them(tmp_path: Path) -> None:
    config = settings_of(tmp_path)
    first = leanrec(tmp_path, "retrain", str(config))
    assert first["release"]["version"] == 1

    keys = tmp_path / "gateway.keys"
    keys.write_text(f"tests:{hashlib.sha256(API_KEY.encode()).hexdigest()}\n")
    keys.chmod(0o600)
    with embedded_server(tmp_path / "stores" / "models", tmp_path / "server.json") as triton:
        write(
            config,
            gateway={
                "port": 0,
                "triton": [triton.grpc],
                "keys": str(keys),
                "event_log": str(tmp_path / "events"),
                # The machine of the tests may be busy: what is slow is not what is tested.
                "deadline_ms": 20_000,
                "hedge_after_ms": 10_000,
                "store_deadline_ms": 20_000,
                "requests_per_s": 100_000,
                "burst": 100_000,
            },
        )
        gateway, url = start_gateway(config, tmp_path / "gateway.log", PSEUDONYM_KEY)
        try:
            write(config, rollout={"gateways": [url]})
            with people_act(url) as seen:
                wait_for(lambda: seen.events >= 600, timeout_s=300)
                second = leanrec(tmp_path, "retrain", str(config), "--roll-out")
                wait_for(lambda: set(seen.last.values()) == {2}, timeout_s=300)
        finally:
            stop_gateway(gateway)
    assert seen.faults == []
    assert set(seen.releases) == {1, 2}

    state = read_json(tmp_path / "stores" / "models" / "release.json")
    assert state["stable"] == 2
    release = tmp_path / "stores" / "models" / "recommender" / "2" / "release"
    assert read_json(release / "manifest.json")["lineage"]["feedback"]["num_joined"] > 0
    assert second["retrain"] and second["drift"]["newest"] == 1
    # Click-through and ratings of what release 1 showed, beside its figures offline.
    online = read_json(tmp_path / "stores" / "models" / "online.json")["releases"]["1"]
    assert online["impressions"] >= 500 and 2.0 <= online["mean_rating"] <= 5.0
    assert "release 1" in Path(tmp_path, second["report"]).read_text()
