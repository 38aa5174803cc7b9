"""Callers that ask a gateway without a pause and check every answer against the release that it names."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from gateway_world import ASK, pseudonym, score_of
from process_table import descendants
from small_world import build, event
from tiny_release import SPEC
from waiting import running

from leanrec.config import FeatureStoreSettings
from leanrec.features.online import OnlineUsers
from leanrec.features.store import materialize_features

USERS = [f"user {n}" for n in range(6)]


@dataclass
class Answered:
    """One answer as a caller saw it."""

    user: str
    release: int
    stage: str
    degraded: str | None
    begun: float
    """When it was asked for, by time.perf_counter()."""
    seconds: float


@dataclass
class Load:
    """What the callers saw."""

    answers: list[Answered] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def since(self, number: int) -> list[Answered]:
        return self.answers[number:]

    def assert_right(self) -> None:
        """No request failed, and no answer was wrong or put together from two releases."""
        assert self.failures == []
        assert self.wrong == []


def fill_store(settings: FeatureStoreSettings, folder: Path) -> dict[str, int]:
    """Bring user rows online by the real materialization; user -> user_index."""
    events = [
        event(n * 10 + m, pseudonym(user), item, n * 100 + m)
        for n, user in enumerate(USERS)
        for m, item in enumerate("abcd"[: 2 + n % 3])
    ]
    features = build(folder / "world", events)["features"]
    materialize_features(settings, features=features, output=folder / "counts.json")
    rows = OnlineUsers(settings).rows([pseudonym(user) for user in USERS])
    return {user: row.user_index for user, row in zip(USERS, rows, strict=True) if row}


def fault_of(answer: dict, user_index: int) -> str | None:
    """Why the items cannot be what the release that is named answers; None when they can."""
    release = answer["release"]
    for item in answer["items"]:
        number = int(item["item_id"][1:])
        right = score_of(item["item_id"], user_index, release)
        if answer["degraded"] == "popular_items" or not answer["known"]:
            right = (number // 2) / ((SPEC.num_items - 1) // 2)
        if item["title"] != f"v{release} Title {number}" or item["score"] != pytest.approx(right, rel=1e-5):
            return f"{item} in {answer}, expected the score {right}"
    return None if len(answer["items"]) == 5 else f"not five items: {answer}"


@contextmanager
def asking(url: str, headers: dict[str, str], users: dict[str, int], callers: int = 3) -> Iterator[Load]:
    """Callers at work for as long as the block lasts."""
    load, stopping = Load(), threading.Event()

    def call(first: int) -> None:
        turn = first
        with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
            while not stopping.is_set():
                user = USERS[turn % len(USERS)]
                turn += 1
                started = time.perf_counter()
                try:
                    response = client.post(ASK, json={"user_id": user, "k": 5})
                except httpx.HTTPError as error:
                    load.failures.append(repr(error))
                    continue
                seconds = time.perf_counter() - started
                if response.status_code != 200:
                    load.failures.append(f"{response.status_code}: {response.text}")
                    continue
                answer = response.json()
                fault = fault_of(answer, users[user])
                if fault:
                    load.wrong.append(fault)
                load.answers.append(
                    Answered(user, answer["release"], answer["stage"], answer["degraded"], started, seconds)
                )

    threads = [threading.Thread(target=call, args=(first,)) for first in range(callers)]
    with running(threads, stopping):
        yield load


def signal_tree(pid: int, number: signal.Signals) -> None:
    """Send `number` to a process and to everything below it."""
    for process in [pid, *descendants(pid)]:
        with suppress(ProcessLookupError):
            os.kill(process, number)
