"""Replicas behind one name: found, asked in turn, left alone while they fail. gRPC servers by hand."""

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as proto

from leanrec.errors import ServingError
from leanrec.triton.async_client import AsyncTritonClient, NotServedError
from leanrec.triton.messages import encode_request
from leanrec.triton.replicas import addresses_of

SERVED = ("recommender", 7)
REQUEST = encode_request(*SERVED, {"user_index": np.array([[3]], np.int64)})
NAME = "triton.of.the.tests:8001"


class Replica:
    """A gRPC server on a port of its own that answers as it is told to: answer, gone, not served or hang."""

    def __init__(self, mood: str = "answer") -> None:
        self.mood = mood
        self.num_asked = 0
        self.address = ""

    async def start(self, stack: AsyncExitStack) -> None:
        server = grpc.aio.server()
        handlers = {
            "ModelInfer": (self._infer, proto.ModelInferRequest, proto.ModelInferResponse),
            "ModelReady": (self._ready, proto.ModelReadyRequest, proto.ModelReadyResponse),
        }
        methods = {
            name: grpc.unary_unary_rpc_method_handler(
                answer,
                request_deserializer=request.FromString,
                response_serializer=response.SerializeToString,
            )
            for name, (answer, request, response) in handlers.items()
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods),)
        )
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        stack.push_async_callback(server.stop, None)

    async def _infer(self, _: proto.ModelInferRequest, context: grpc.aio.ServicerContext) -> object:
        self.num_asked += 1
        if self.mood == "gone":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        if self.mood == "not served":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "version 7 is not at ready state")
        if self.mood == "hang":
            await asyncio.sleep(60)
        response = proto.ModelInferResponse(model_name="recommender", model_version="7")
        response.outputs.add(name="score", datatype="FP32", shape=[1, 1])
        response.raw_output_contents.append(np.ones((1, 1), np.float32).tobytes())
        return response

    async def _ready(self, request: proto.ModelReadyRequest, _: object) -> object:
        return proto.ModelReadyResponse(ready=self.mood != "not served")


class World:
    """Replicas behind one name, and a client; `behind` is what the name resolves to."""

    def __init__(self, *moods: str) -> None:
        self.replicas = [Replica(mood) for mood in moods]
        self.behind: list[str] | None = None

    def resolve(self, name: str) -> list[str]:
        assert name == NAME
        if self.behind is None:
            raise socket.gaierror("nobody knows this name")
        return self.behind

    async def ask(self, times: int) -> Counter[int]:
        """How often each replica is asked while `times` requests are answered, one after another."""
        before = [replica.num_asked for replica in self.replicas]
        for _ in range(times):
            assert (await self.client.infer(REQUEST, SERVED)).version == 7
        return Counter({n: r.num_asked - before[n] for n, r in enumerate(self.replicas)})


def run(world: World, story: Callable[[World], Awaitable[None]], hedge_after_s: float = 20.0) -> None:
    async def tell() -> None:
        async with AsyncExitStack() as stack:
            for replica in world.replicas:
                await replica.start(stack)
            world.behind = [replica.address for replica in world.replicas]
            world.client = AsyncTritonClient(
                [NAME], deadline_s=30, hedge_after_s=hedge_after_s, resolve_s=0.01, resolve=world.resolve
            )
            stack.push_async_callback(world.client.close)
            await world.client.follow()
            await story(world)

    asyncio.run(tell())


def test_every_replica_behind_a_name_is_asked_as_often() -> None:
    async def story(world: World) -> None:
        assert await world.ask(30) == {0: 10, 1: 10, 2: 10}

    run(World("answer", "answer", "answer"), story)


@pytest.mark.parametrize("mood", ["gone", "not served"])
def test_a_replica_that_fails_or_lacks_the_version_costs_no_answer_and_is_left_alone(
    mood: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leanrec.triton.replicas.OUT_S", 1000.0)

    async def story(world: World) -> None:
        asked = await world.ask(30)
        assert asked[1] == 1
        assert asked[0] + asked[2] == 30

    run(World("answer", mood, "answer"), story)


def test_where_only_one_of_three_serves_the_version_it_answers_everything() -> None:
    async def story(world: World) -> None:
        assert (await world.ask(5))[2] == 5

    run(World("not served", "gone", "answer"), story)


def test_a_replica_that_comes_back_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leanrec.triton.replicas.OUT_S", 0.05)

    async def story(world: World) -> None:
        await world.ask(6)
        world.replicas[1].mood = "answer"
        await asyncio.sleep(0.1)
        before = await world.ask(30)
        assert before[1] == 10

    run(World("answer", "gone", "answer"), story)


def test_a_replica_that_hangs_is_left_alone_after_a_few_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leanrec.triton.replicas.OUT_S", 1000.0)

    async def story(world: World) -> None:
        assert (await world.ask(30))[1] <= 4

    # Late here: a second, which no answer of the others takes on the slowest machine.
    run(World("answer", "hang", "answer"), story, hedge_after_s=1.0)


def test_where_every_replica_is_out_all_are_asked_and_what_the_last_one_says_is_raised() -> None:
    async def story(world: World) -> None:
        for _ in range(2):
            with pytest.raises(NotServedError, match="leanrec release status"):
                await world.client.infer(REQUEST, SERVED)
        assert [replica.num_asked for replica in world.replicas] == [2, 2]
        for replica in world.replicas:
            replica.mood = "answer"
        assert sum((await world.ask(4)).values()) == 4

    run(World("not served", "not served"), story)


def test_one_model_that_is_lacking_takes_the_replica_out_for_that_model_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("leanrec.triton.replicas.OUT_S", 1000.0)

    async def story(world: World) -> None:
        await world.ask(4)
        world.replicas[1].mood = "answer"
        before = world.replicas[1].num_asked
        for _ in range(4):
            await world.client.infer(REQUEST, ("ranker", 7))
        assert world.replicas[1].num_asked == before + 2
        assert (await world.ask(4))[1] == 0

    run(World("answer", "not served"), story)


def test_a_replica_that_was_given_too_little_time_is_not_the_late_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("leanrec.triton.replicas.OUT_S", 1000.0)

    async def story(world: World) -> None:
        world.replicas[1].mood = "hang"
        for _ in range(10):
            with suppress(ServingError):
                await world.client.infer(REQUEST, SERVED, asyncio.get_running_loop().time() + 0.05)
        world.replicas[1].mood = "answer"
        assert await world.ask(10) == {0: 5, 1: 5}

    run(World("answer", "answer"), story)


def test_a_replica_that_is_asked_late_in_a_request_is_not_the_late_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    late = []
    monkeypatch.setattr("leanrec.triton.replicas.Replica.was_late", lambda self: late.append(self.address))

    async def story(world: World) -> None:
        with pytest.raises(ServingError):
            await world.client.infer(REQUEST, SERVED, asyncio.get_running_loop().time() + 0.5)
        assert [replica.num_asked for replica in world.replicas] == [1, 1]
        assert late == [world.replicas[0].address]

    run(World("hang", "hang"), story, hedge_after_s=0.3)


def test_replicas_come_and_go_with_the_name_and_a_name_that_nobody_knows_changes_nothing() -> None:
    async def until(world: World, replicas: list[Replica]) -> None:
        async with asyncio.timeout(60):
            while world.client.addresses != [replica.address for replica in replicas]:
                await asyncio.sleep(0.01)

    async def story(world: World) -> None:
        first, second, third = world.replicas
        world.behind = [first.address]
        await until(world, [first])
        assert await world.ask(4) == {0: 4, 1: 0, 2: 0}
        world.behind = None
        await asyncio.sleep(0.05)
        assert world.client.addresses == [first.address]
        world.behind = [second.address, third.address]
        await until(world, [second, third])
        assert await world.ask(4) == {0: 0, 1: 2, 2: 2}
        assert await world.client.are_ready(*SERVED) == [True, True]
        third.mood = "not served"
        assert await world.client.are_ready(*SERVED) == [True, False]

    run(World("answer", "answer", "answer"), story)


def test_a_call_under_way_at_a_replica_that_leaves_is_finished() -> None:
    async def story(world: World) -> None:
        world.replicas[0].mood = "hang"
        task = asyncio.create_task(world.client.infer(REQUEST, SERVED))
        async with asyncio.timeout(60):
            while not world.replicas[0].num_asked:
                await asyncio.sleep(0.01)
        world.behind = [world.replicas[1].address]
        assert (await task).version == 7

    run(World("answer", "answer"), story, hedge_after_s=0.5)


def test_addresses_are_told_of_names_and_of_addresses() -> None:
    assert addresses_of("127.0.0.2:8001") == ["127.0.0.2:8001"]
    assert addresses_of("[::1]:8001") == ["[::1]:8001"]
    assert addresses_of("localhost:8001") == ["127.0.0.1:8001"]
    with pytest.raises(OSError, match=r".+"):
        addresses_of("no-such-host.invalid:8001")


def test_nobody_behind_the_name_is_one_sentence() -> None:
    async def ask() -> None:
        client = AsyncTritonClient(["127.0.0.1:9"], deadline_s=5, hedge_after_s=1)
        await client.follow()
        with pytest.raises(ServingError, match=r"nothing answers at 127\.0\.0\.1:9"):
            await client.infer(REQUEST, SERVED)
        await client.close()

    asyncio.run(ask())
