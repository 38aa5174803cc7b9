"""Events through a real gateway that is killed, whose disk is full, whose store is gone."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

import pytest
from running_gateway import API_KEY, ITEM_IDS, PSEUDONYM_KEY, USERS, GatewayWorld, gateway_world

from leanrec.config import FeatureStoreSettings
from leanrec.data.pseudonyms import pseudonym_of
from leanrec.errors import ServingError
from leanrec.features.online import OnlineUsers
from serving.client import Event, GatewayClient

pytestmark = pytest.mark.integration
NUM_SENDERS = 4


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayWorld]:
    with gateway_world(tmp_path_factory.mktemp("gateway")) as world:
        yield world


class Sender(threading.Thread):
    """Sends small batches until nobody answers; sends again what was not acknowledged when told so."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.next = 0
        self.url = ""
        self.acknowledged: set[str] = set()
        self.unanswered: list[Event] = []
        self.num_duplicates = 0

    def run(self) -> None:
        with GatewayClient(self.url, API_KEY, timeout_s=10) as gateway:
            while True:
                batch = self.unanswered or [self._event() for _ in range(3)]
                self.unanswered = batch
                try:
                    answer = gateway.send_events(batch)
                except ServingError:
                    return
                assert answer.accepted + answer.duplicates == len(batch)
                self.num_duplicates += answer.duplicates
                self.acknowledged |= {event.event_id for event in batch}
                self.unanswered = []

    def _event(self) -> Event:
        self.next += 1
        name = f"s{self.number}-{self.next}"
        item = ITEM_IDS[self.next % len(ITEM_IDS)]
        return Event(event_id=name, user_id=USERS[self.number], item_id=item, type="rating", rating=4)


def test_a_gateway_killed_under_load_loses_and_doubles_no_acknowledged_event(world: GatewayWorld) -> None:
    senders = [Sender(number) for number in range(NUM_SENDERS)]
    for num_batches in (5, 15):
        url = world.start()
        again = []
        for old in senders:
            sender = Sender(old.number)
            sender.next, sender.acknowledged, sender.unanswered = old.next, old.acknowledged, old.unanswered
            sender.url = url
            again.append(sender)
        senders = again
        enough = len(senders[0].acknowledged) + 3 * num_batches
        for sender in senders:
            sender.start()
        while len(senders[0].acknowledged) < enough and senders[0].is_alive():
            threading.Event().wait(0.005)
        world.kill()
        for sender in senders:
            sender.join()
    world.start()
    with GatewayClient(world.url, API_KEY, timeout_s=10) as gateway:
        for sender in senders:
            if sender.unanswered:
                gateway.send_events(sender.unanswered)
                sender.acknowledged |= {event.event_id for event in sender.unanswered}
    lines = Counter(
        line.split('"', 4)[3]
        for path in world.event_log.glob("*/*.jsonl")
        for line in path.read_text().splitlines()
    )
    for sender in senders:
        assert len(sender.acknowledged) > 3 * num_batches
        assert {name: lines[name] for name in sender.acknowledged} == dict.fromkeys(sender.acknowledged, 1)
    events = world.events()
    assert len(events) == len({event["event_id"] for event in events}) == sum(lines.values())
    assert {event["user_id"] for event in events} <= {pseudonym_of(u, PSEUDONYM_KEY.encode()) for u in USERS}
    assert world.stop() == 0


def test_an_event_sent_just_before_the_end_is_in_the_row_afterwards(world: GatewayWorld) -> None:
    world.start()
    with GatewayClient(world.url, API_KEY, timeout_s=10) as gateway:
        answer = gateway.recommend("somebody new", 1)
        assert not answer.known
        event = Event(
            event_id="last",
            user_id="somebody new",
            item_id=answer.items[0].item_id,
            type="click",
            request_id=answer.request_id,
        )
        known = gateway.recommend(USERS[0], 1)
        assert known.known
        credited = Event(
            event_id="last of a known user",
            user_id=USERS[0],
            item_id=answer.items[0].item_id,  # he may have seen all that there are
            type="click",
            request_id=known.request_id,
        )
        assert gateway.send_events([event, credited]).accepted == 2
    assert world.stop() == 0
    lines = {line["event_id"]: line for line in world.events()}
    line = lines["last"]
    assert line["release"] is None  # popular items, for somebody new
    assert lines["last of a known user"]["release"] == known.release
    row = OnlineUsers(FeatureStoreSettings(repository=str(world.folder / "store"))).row(line["user_id"])
    assert row is not None
    assert len(row.seen) == 1
