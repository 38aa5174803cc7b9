"""User rows in memory: read once however many ask, kept past their time for when the store is gone."""

import asyncio
import threading

import pytest
from gateway_world import Rows, pseudonym, row

from leanrec.config import GatewaySettings
from leanrec.errors import FeatureStoreError
from serving.gateway.metrics import Metrics
from serving.gateway.users import Users


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class World:
    def __init__(self, **settings: object) -> None:
        self.clock = Clock()
        self.store = Rows({f"u{n}": row(n) for n in range(1, 6)})
        self.metrics = Metrics()
        self.users = Users(
            lambda: self.store,
            GatewaySettings.parse(
                {"user_cache_ttl_s": 30, "store_pause_ms": 500, "store_deadline_ms": 20_000, **settings}
            ),
            self.metrics,
            self.clock,
        )

    def get(self, user: str):
        return self.users.get(pseudonym(user))

    def counted(self, result: str) -> float:
        return self.metrics.user_cache.labels(result)._value.get()


def test_a_hundred_requests_for_one_user_at_once_make_one_look_up() -> None:
    async def ask() -> None:
        world = World()
        gate = threading.Event()
        plain = world.store.row
        world.store.row = lambda user: gate.wait(30) and plain(user)
        asking = [asyncio.create_task(world.get("u1")) for _ in range(100)]
        await asyncio.sleep(0.01)
        gate.set()
        answers = await asyncio.gather(*asking)
        assert {user.row.user_index for user, _ in answers} == {1}
        assert world.store.asked == 1
        assert (world.counted("miss"), world.counted("joined")) == (1, 99)

    asyncio.run(ask())


def test_a_row_is_read_again_only_when_its_time_is_over_also_one_of_a_stranger() -> None:
    async def ask() -> None:
        world = World()
        for user in ("u1", "nobody"):
            world.store.asked = 0
            await world.get(user)
            world.clock.now += 29
            await world.get(user)
            assert world.store.asked == 1
            world.clock.now += 2
            await world.get(user)
            assert world.store.asked == 2

    asyncio.run(ask())


def test_a_changed_row_is_read_anew_and_a_look_up_that_began_before_is_not_kept() -> None:
    async def ask() -> None:
        world = World()
        looked_up, gate = threading.Event(), threading.Event()
        plain = world.store.row

        def slow(user: str):
            found = plain(user)
            looked_up.set()
            gate.wait(30)
            return found

        world.store.row = slow
        early = asyncio.create_task(world.get("u1"))
        assert await asyncio.to_thread(looked_up.wait, 30)
        world.store.rows[pseudonym("u1")] = row(5)
        world.users.forget(pseudonym("u1"))
        gate.set()
        await early
        user, _ = await world.get("u1")
        assert user.row.user_index == 5
        world.store.rows[pseudonym("u1")] = row(4)
        assert (await world.get("u1"))[0].row.user_index == 5
        world.users.forget(pseudonym("u1"))
        assert (await world.get("u1"))[0].row.user_index == 4

    asyncio.run(ask())


def test_no_more_rows_are_kept_than_there_is_room_for_and_the_least_used_goes() -> None:
    async def ask() -> None:
        world = World(user_cache_size=2)
        for user in ("u1", "u2", "u1", "u3"):
            await world.get(user)
        asked = world.store.asked
        await world.get("u1")
        assert world.store.asked == asked
        await world.get("u2")
        assert world.store.asked == asked + 1

    asyncio.run(ask())


def test_a_row_past_its_time_is_better_than_none_and_the_store_gets_a_pause() -> None:
    async def ask() -> None:
        world = World()
        await world.get("u1")
        world.store.broken = True
        world.clock.now += 60
        user, is_stale = await world.get("u1")
        assert (user.row.user_index, is_stale) == (1, True)
        assert not world.users.store_answers
        asked = world.store.asked
        with pytest.raises(FeatureStoreError, match="the online store"):
            await world.get("u2")
        assert world.store.asked == asked
        world.store.broken = False
        world.clock.now += 0.6
        assert (await world.get("u1"))[1] is False
        assert world.users.store_answers

    asyncio.run(ask())


def test_a_store_that_hangs_is_given_up_on() -> None:
    async def ask() -> None:
        world = World(store_deadline_ms=20)
        gate = threading.Event()
        world.store.row = lambda user: gate.wait(10)
        try:
            with pytest.raises(FeatureStoreError, match="does not answer"):
                await world.get("u1")
        finally:
            gate.set()

    asyncio.run(ask())
