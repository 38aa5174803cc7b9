"""Two real gateways on one event log and one Redis: an event counts once, sent to either and sent again."""

from __future__ import annotations

import random
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import httpx
import pytest
from gateway_load import USERS, fill_store
from gateway_world import headers_of, pseudonym, publish, running_gateway, settings_of
from restartable import RedisServer, ended
from waiting import wait_for

from leanrec.config import FeatureStoreSettings
from leanrec.features.online import OnlineUsers

pytestmark = pytest.mark.integration


@dataclass
class Pair:
    """Two gateways as their callers see them, and what they leave behind."""

    store: FeatureStoreSettings
    log: Path
    headers: dict[str, str]
    processes: list[Popen[str]]
    urls: list[str]

    def send(self, number: int, events: Sequence[dict], timeout_s: float = 60) -> httpx.Response:
        url = f"{self.urls[number]}/v1/events"
        return httpx.post(url, json={"events": events}, headers=self.headers, timeout=timeout_s)

    def counted(self) -> int:
        """What both say that they have taken."""
        texts = [httpx.get(f"{url}/metrics", timeout=60).text for url in self.urls]
        found = re.findall(r"^leanrec_feedback_total\{.*\} (\S+)$", "\n".join(texts), re.M)
        return int(sum(map(float, found)))

    def lines(self) -> Counter[str]:
        """Event id -> its lines in the log."""
        lines = (line for path in self.log.glob("*/*.jsonl") for line in path.read_text().splitlines())
        return Counter(line.split('"', 4)[3] for line in lines)

    def num_events(self, user: str) -> int:
        """What the user's row online counts."""
        row = OnlineUsers(self.store).row(pseudonym(user))
        return int(row.user_statistics[0]) if row else 0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, FeatureStoreSettings]]:
    """A folder with a release, and user rows in a Redis."""
    folder = tmp_path_factory.mktemp("world")
    publish(folder, 1)
    redis = RedisServer(folder)
    store = FeatureStoreSettings(
        repository=str(folder / "store"), online="redis", redis=f"127.0.0.1:{redis.port}"
    )
    with ended(redis):
        redis.start()
        fill_store(store, folder)
        yield folder, store


@pytest.fixture
def pair(world: tuple[Path, FeatureStoreSettings], tmp_path: Path) -> Iterator[Pair]:
    folder, store = world
    settings = settings_of(folder, store, event_log=str(tmp_path / "events"))
    headers = headers_of(settings)
    with ExitStack() as running:
        gateways = []
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            gateways.append(running.enter_context(running_gateway(tmp_path / name, settings)))
        processes, urls = zip(*gateways, strict=True)
        yield Pair(store, tmp_path / "events", headers, list(processes), list(urls))


def rating(name: str, user: str = USERS[0], item: int = 1) -> dict:
    return {"event_id": name, "user_id": user, "item_id": f"i{item}", "type": "rating", "rating": 4}


def test_an_event_whose_answer_was_lost_counts_once_at_the_other_gateway(pair: Pair) -> None:
    before = pair.num_events(USERS[0])
    events = [rating(f"e{n}", item=1 + n) for n in range(5)]
    assert pair.send(0, events[:3]).json()["accepted"] == 3
    host, port = pair.urls[0].removeprefix("http://").split(":")
    request = httpx.Request(
        "POST", pair.urls[0] + "/v1/events", json={"events": events}, headers=pair.headers
    )
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    with socket.create_connection((host, int(port))) as gone:  # the caller does not wait for the answer
        gone.sendall(f"POST /v1/events HTTP/1.1\r\n{head}\r\n".encode() + request.read())
    answer = pair.send(1, events).json()
    assert answer["accepted"] + answer["duplicates"] == 5
    wait_for(lambda: pair.num_events(USERS[0]) == before + 5)
    assert pair.counted() == 5
    assert pair.lines() == Counter(event["event_id"] for event in events)
    refused = pair.send(1, [rating("new"), rating("e1", item=7)])
    assert refused.status_code == 409
    assert "event 'e1' (events.1): its id was taken before, with another `item_id`" in refused.text
    assert pair.num_events(USERS[0]) == before + 5


def test_events_sent_to_both_at_the_same_time_count_once_and_change_every_row(pair: Pair) -> None:
    before = {user: pair.num_events(user) for user in USERS}
    events = [rating(f"e{n}", user=USERS[n % len(USERS)], item=1 + n % 15) for n in range(120)]

    def send(number: int) -> int:
        calls = [events[n : n + 3] for n in range(0, len(events), 3)]
        random.Random(number).shuffle(calls)
        return sum(pair.send(number % 2, call).json()["accepted"] for call in calls)

    with ThreadPoolExecutor(4) as callers:
        accepted = sum(callers.map(send, range(4)))
    assert accepted == pair.counted() == len(events)
    assert set(pair.lines().values()) == {1}
    assert {user: pair.num_events(user) - before[user] for user in USERS} == dict.fromkeys(USERS, 20)


@pytest.mark.parametrize("fault", [signal.SIGSTOP, signal.SIGKILL])
def test_callers_move_on_from_a_gateway_that_hangs_or_dies_and_nothing_counts_twice(
    pair: Pair, fault: signal.Signals
) -> None:
    acknowledged: list[str] = []
    ending = threading.Event()

    def call(number: int) -> None:
        sent = 0
        while not ending.is_set():
            event = rating(f"s{number}-{sent}", user=USERS[number], item=1 + sent % 15)
            for gateway in (0, 1):
                try:
                    answer = pair.send(gateway, [event], timeout_s=0.5 if gateway == 0 else 60)
                except httpx.TransportError:
                    continue
                assert answer.status_code == 200, answer.text
                acknowledged.append(event["event_id"])
                break
            sent += 1

    with ThreadPoolExecutor(4) as callers:
        calls = [callers.submit(call, number) for number in range(4)]
        try:
            wait_for(lambda: len(acknowledged) > 100)
            pair.processes[0].send_signal(fault)
            reached = len(acknowledged)
            wait_for(lambda: len(acknowledged) > reached + 20)
            time.sleep(0.5)
            pair.processes[0].send_signal(signal.SIGCONT)
            reached = len(acknowledged)
            wait_for(lambda: len(acknowledged) > reached + 20)
        finally:
            ending.set()
        for done in calls:
            done.result()
    assert set(acknowledged) <= set(pair.lines())
    if fault == signal.SIGSTOP:  # what it had begun it has finished, and knows what the other took meanwhile
        wait_for(lambda: pair.counted() == len(pair.lines()))
    else:
        assert set(pair.lines().values()) == {1}
