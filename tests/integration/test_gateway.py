"""The gateway's process in front of a real Triton and a real store."""

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from gateway_load import USERS, asking, fault_of, fill_store, signal_tree
from gateway_world import ASK, headers_of, publish, running_gateway, settings_of
from waiting import wait_for

from leanrec.config import FeatureStoreSettings, RunSettings
from leanrec.release.promote import advance, offer, promote, rollback, withdraw
from leanrec.triton.embedded_server import EmbeddedServer, embedded_server

pytestmark = pytest.mark.integration

KNOWN = USERS[0]


@dataclass
class World:
    folder: Path
    settings: RunSettings
    triton: EmbeddedServer
    users: dict[str, int]
    url: str
    client: httpx.Client

    @property
    def repository(self) -> Path:
        return self.folder / "models"

    def ask(self, user: str = KNOWN, **wanted: object) -> dict:
        answer = self.client.post(ASK, json={"user_id": user, "k": 5, **wanted})
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Releases 1 and 2 are kept, and 1 is stable; every test leaves it so."""
    folder = tmp_path_factory.mktemp("gateway")
    publish(folder, 1)
    publish(folder, 2)
    assert rollback(folder / "models") == 1
    store = FeatureStoreSettings(repository=str(folder / "store"))
    users = fill_store(store, folder)
    with embedded_server(folder / "models", folder / "triton.json") as triton:
        # A busy machine must not make a test fail: only faults are given up on early.
        settings = settings_of(
            folder, store, triton=[triton.grpc], deadline_ms=20_000, store_deadline_ms=20_000
        )
        headers = headers_of(settings)
        with (
            running_gateway(folder, settings) as (_, url),
            httpx.Client(base_url=url, headers=headers, timeout=30) as client,
        ):
            yield World(folder, settings, triton, users, url, client)


def test_a_known_user_gets_what_the_model_answers_without_what_he_does_not_want(world: World) -> None:
    answer = world.ask()
    assert (answer["release"], answer["stage"], answer["known"], answer["degraded"]) == (
        1,
        "stable",
        True,
        None,
    )
    assert [item["item_id"] for item in answer["items"]] == ["i20", "i19", "i18", "i17", "i16"]
    assert fault_of(answer, world.users[KNOWN]) is None
    other = world.ask(exclude_items=["i20", "i18"], explain=True)
    assert [item["item_id"] for item in other["items"]] == ["i19", "i17", "i16", "i15", "i14"]
    assert all(item["because"] for item in other["items"])
    # The model lists 12 items: more odd ones than those six are asked of the ranker.
    odd = world.ask(categories=["Odd"], k=8)
    assert [item["item_id"] for item in odd["items"]] == ["i19", "i17", "i15", "i13", "i11", "i9", "i7", "i5"]
    assert world.ask(categories=["No such"], k=8)["items"] == []


def test_rank_ready_and_releases(world: World) -> None:
    ranked = world.client.post("/v1/rank", json={"user_id": KNOWN, "item_ids": ["i3", "i20"]}).json()
    assert [item["item_id"] for item in ranked["items"]] == ["i3", "i20"]
    assert [item["like"] for item in ranked["items"]] == pytest.approx([0.15, 1.0])
    stranger = world.client.post("/v1/rank", json={"user_id": "stranger", "item_ids": ["i3"]}).json()
    assert (stranger["known"], stranger["degraded"], stranger["items"][0]["rating"] > 0) == (
        False,
        None,
        True,
    )
    assert world.client.get("/readyz").json()["ready"] is True
    releases = world.client.get("/v1/releases").json()
    assert (releases["stable"], releases["versions"]) == (1, [1, 2])
    assert releases["models"] == {"recommender": [1], "ranker": [1]}
    user = world.client.get(f"/v1/users/{KNOWN}").json()
    assert user["known"]
    assert len(user["history"]) == 2


def test_releases_change_under_load_and_nobody_notices(world: World) -> None:
    headers = dict(world.client.headers)

    def arrived(release: int) -> bool:
        """Whether the gateway has gone over, and not only fallen back, to `release`."""
        settled = world.client.get("/v1/releases").json()["stable"] == release
        return settled and load.answers[-1].release == release

    with asking(world.url, headers, world.users) as load:
        wait_for(lambda: len(load.answers) > 20)
        promote(world.repository, 2)
        wait_for(lambda: arrived(2))
        rollback(world.repository)
        wait_for(lambda: arrived(1))
        promote(world.repository, 2)
        wait_for(lambda: arrived(2))
        promote(world.repository, 1)
        wait_for(lambda: arrived(1))
        seen, gone_over = len(load.answers), time.perf_counter()
        wait_for(lambda: len(load.answers) > seen + 20)
    load.assert_right()
    assert {answer.degraded for answer in load.answers} == {None}
    # What was on its way while the gateway went over may still be of the release before.
    assert {answer.release for answer in load.since(seen) if answer.begun > gone_over} == {1}


@contextmanager
def rollout(world: World) -> Iterator[None]:
    """Version 2 as a candidate that Triton answers."""
    offer(world.repository, 2)
    try:
        wait_for(
            lambda: world.client.get("/v1/releases").json()["models"].get("recommender_candidate") == [2]
        )
        yield
    finally:
        withdraw(world.repository, "the test is over")
        wait_for(lambda: world.client.get("/v1/releases").json()["candidate"] is None)


def test_a_canary_answers_the_same_users_each_time_and_can_be_compared(world: World) -> None:
    strangers = [f"somebody {n}" for n in range(40)]
    with rollout(world):
        assert {world.ask(user)["stage"] for user in USERS} == {"stable"}
        candidate = world.ask(release=2)
        assert (candidate["release"], candidate["stage"]) == (2, "candidate")
        assert fault_of(candidate, world.users[KNOWN]) is None
        advance(world.repository, "canary", percent=50, reason="for the test")
        wait_for(lambda: {world.ask(user)["stage"] for user in strangers} == {"stable", "candidate"})
        first = {user: world.ask(user) for user in [*USERS, *strangers]}
        for user, answer in first.items():
            assert (answer["release"], answer["stage"]) in ((1, "stable"), (2, "candidate"))
            again = world.ask(user)
            assert (again["release"], again["stage"]) == (answer["release"], answer["stage"])
            assert fault_of(answer, world.users.get(user, 0)) is None
        releases = world.client.get("/v1/releases").json()
        assert (releases["stable"], releases["candidate"], releases["rollout"]["percent"]) == (1, 2, 50)
        assert "salt" not in releases["rollout"]
    assert {world.ask(user)["release"] for user in strangers} == {1}
    assert world.client.post(ASK, json={"user_id": KNOWN, "release": 2}).status_code == 409


def test_shadow_requests_are_compared_and_never_returned(world: World) -> None:
    counted = 'leanrec_shadow_total{outcome="ok",release="2"}'
    with rollout(world):
        advance(world.repository, "shadow", shadow_percent=100, reason="for the test")
        wait_for(lambda: world.client.get("/v1/releases").json()["rollout"]["stage"] == "shadow")
        for user in USERS:
            assert world.ask(user)["release"] == 1
        wait_for(lambda: f"{counted} {len(USERS)}.0" in world.client.get("/metrics").text)
        text = world.client.get("/metrics").text
        # Both versions order the items alike, so all ten are the same.
        assert f'leanrec_shadow_overlap_sum{{release="2"}} {len(USERS)}.0' in text
        assert 'leanrec_score_count{release="2"}' in text


def test_sigterm_lets_a_request_in_flight_finish_and_ends_with_0(world: World, tmp_path: Path) -> None:
    settings = world.settings.model_copy(
        update={"gateway": world.settings.gateway.model_copy(update={"event_log": str(tmp_path / "events")})}
    )
    answers: list[httpx.Response] = []
    with running_gateway(tmp_path, settings) as (process, url):

        def ask() -> None:
            wanted = {"user_id": KNOWN, "k": 5}
            answers.append(httpx.post(url + ASK, json=wanted, headers=world.client.headers, timeout=30))

        signal_tree(world.triton.pid, signal.SIGSTOP)
        try:
            asker = threading.Thread(target=ask)
            asker.start()
            wait_for(lambda: "leanrec_user_cache_total" in httpx.get(url + "/metrics").text)
            wait_for(lambda: 'result="miss"} 2.0' in httpx.get(url + "/metrics").text)
            process.send_signal(signal.SIGTERM)
            wait_for(lambda: not accepts(url))
        finally:
            signal_tree(world.triton.pid, signal.SIGCONT)
        asker.join()
        assert process.wait(30) == 0
    assert answers[0].status_code == 200
    assert answers[0].json()["degraded"] is None
    assert "Traceback" not in (tmp_path / "gateway.log").read_text()


def accepts(url: str) -> bool:
    try:
        httpx.get(url + "/healthz", timeout=5)
    except httpx.HTTPError:
        return False
    return True


def connects(connections: list[socket.socket], host: str, port: str) -> bool:
    with contextlib.suppress(ConnectionRefusedError):
        connections.append(socket.create_connection((host, int(port)), timeout=60))
        return True
    return False


def test_callers_that_stall_in_their_bodies_give_their_places_back(world: World, tmp_path: Path) -> None:
    limits = {"max_in_flight": 2, "body_timeout_s": 1, "event_log": str(tmp_path / "events")}
    gateway = world.settings.gateway.model_copy(update=limits)
    settings = world.settings.model_copy(update={"gateway": gateway})
    headers = headers_of(settings)
    with running_gateway(tmp_path, settings) as (_, url):
        host, port = url.removeprefix("http://").split(":")
        begun = f"POST {ASK} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 30\r\n"
        begun += "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n{"
        stalled: list[socket.socket] = []
        wait_for(lambda: connects(stalled, host, port) and len(stalled) == 2)
        try:
            for connection in stalled:
                connection.sendall(begun.encode())
            assert all(connection.recv(4096).startswith(b"HTTP/1.1 408") for connection in stalled)
            answer = httpx.post(f"{url}{ASK}", json={"user_id": KNOWN}, headers=headers, timeout=60)
            assert answer.status_code == 200
        finally:
            for connection in stalled:
                connection.close()
