"""The asynchronous client against gRPC servers by hand: who is asked when, and what counts."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as proto

from leanrec.errors import ServingError
from leanrec.triton.async_client import AsyncTritonClient, NotServedError
from leanrec.triton.messages import encode_request

REQUEST = encode_request("recommender", 7, {"user_index": np.array([[3]], np.int64)})
Behaviour = Callable[[proto.ModelInferRequest, grpc.aio.ServicerContext], Awaitable[None]]


class Replica:
    """A gRPC server that answers as version 7, after `behave` has had its way."""

    def __init__(self, behave: Behaviour | None = None, score: float = 1.0) -> None:
        self._behave = behave
        self._score = score
        self.asked: list[proto.ModelInferRequest] = []
        self.cancelled = 0

    async def start(self, stack: AsyncExitStack) -> str:
        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(
            self._infer,
            request_deserializer=proto.ModelInferRequest.FromString,
            response_serializer=proto.ModelInferResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": handler}),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stack.push_async_callback(server.stop, None)
        return f"127.0.0.1:{port}"

    async def _infer(self, request: proto.ModelInferRequest, context: grpc.aio.ServicerContext):
        self.asked.append(request)
        try:
            if self._behave:
                await self._behave(request, context)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        response = proto.ModelInferResponse(model_name="recommender", model_version="7")
        response.outputs.add(name="score", datatype="FP32", shape=[1, 1])
        response.raw_output_contents.append(np.array([self._score], np.float32).tobytes())
        return response


async def hang(_: object, __: object) -> None:
    await asyncio.sleep(60)


def refuse(code: grpc.StatusCode, details: str) -> Behaviour:
    async def behave(_: object, context: grpc.aio.ServicerContext) -> None:
        await context.abort(code, details)

    return behave


def asked_of(
    *replicas: Replica,
    hedge_after_s: float = 0.05,
    deadline_s: float = 30.0,
    more: tuple[str, ...] = (),
    cancelled: int = 0,
    within_s: float | None = None,
) -> float:
    """The score that a client of `replicas`, of which the first is asked first, gets.

    Returns once so many of the requests have been seen to be cancelled.
    """

    async def ask() -> float:
        async with AsyncExitStack() as stack:
            addresses = [*more, *[await replica.start(stack) for replica in replicas]]
            client = AsyncTritonClient(addresses, deadline_s=deadline_s, hedge_after_s=hedge_after_s)
            stack.push_async_callback(client.close)
            ends = None if within_s is None else asyncio.get_running_loop().time() + within_s
            answer = await client.infer(REQUEST, ends=ends)
            assert answer.version == 7
            async with asyncio.timeout(60):
                while sum(replica.cancelled for replica in replicas) < cancelled:
                    await asyncio.sleep(0.01)
            return float(answer.outputs["score"][0, 0])

    return asyncio.run(ask())


def test_a_request_arrives_as_it_was_encoded_and_is_asked_once() -> None:
    first, second = Replica(score=1), Replica(score=2)
    assert asked_of(first, second, hedge_after_s=20) == 1
    (request,) = first.asked
    assert (request.model_name, request.model_version) == ("recommender", "7")
    assert np.frombuffer(request.raw_input_contents[0], np.int64).tolist() == [3]
    assert second.asked == []


def test_a_late_answer_is_asked_for_at_the_next_replica_and_the_first_request_is_cancelled() -> None:
    slow, fast = Replica(hang, score=1), Replica(score=2)
    assert asked_of(slow, fast, cancelled=1) == 2
    assert (len(slow.asked), len(fast.asked), slow.cancelled) == (1, 1, 1)


def test_with_one_replica_the_same_is_asked_again_once() -> None:
    calls = 0

    async def hang_first(_: object, __: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.sleep(60)

    replica = Replica(hang_first)
    assert asked_of(replica) == 1
    assert len(replica.asked) == 2


def test_the_first_request_still_counts_when_the_second_one_fails() -> None:
    async def late(_: object, __: object) -> None:
        await asyncio.sleep(0.3)

    first = Replica(late, score=1)
    second = Replica(refuse(grpc.StatusCode.INVALID_ARGUMENT, "no"), score=2)
    assert asked_of(first, second) == 1


def test_a_replica_that_is_gone_costs_a_try_at_the_next() -> None:
    assert asked_of(Replica(score=2), more=("127.0.0.1:9",), hedge_after_s=20) == 2


def test_no_answer_within_the_deadline_is_an_error_and_nobody_is_asked_a_third_time() -> None:
    replica = Replica(hang)
    with pytest.raises(ServingError, match=r"no answer within 3 s"):
        asked_of(replica, deadline_s=3)
    assert len(replica.asked) == 2


def test_an_end_before_the_deadline_is_the_end_and_one_that_is_over_asks_nobody() -> None:
    replica = Replica(hang)
    with pytest.raises(ServingError, match=r"no answer within 0.5 s"):
        asked_of(replica, hedge_after_s=20, deadline_s=60, within_s=0.5)
    assert len(replica.asked) == 1
    with pytest.raises(ServingError, match="its time was over before"):
        asked_of(replica, within_s=0)
    assert len(replica.asked) == 1


def test_an_end_after_the_deadline_does_not_put_it_off() -> None:
    with pytest.raises(ServingError, match=r"no answer within 0.5 s"):
        asked_of(Replica(hang), hedge_after_s=20, deadline_s=0.5, within_s=60)


@pytest.mark.parametrize(
    "details",
    [
        "Request for unknown model: 'recommender' version 7 is not at ready state",
        "Request for unknown model: 'recommender_candidate' is not found",
    ],
)
def test_a_version_that_is_not_served_is_told_apart_and_not_asked_for_again(details: str) -> None:
    replica = Replica(refuse(grpc.StatusCode.UNAVAILABLE, details))
    with pytest.raises(NotServedError, match="leanrec release status"):
        asked_of(replica, hedge_after_s=20, deadline_s=60)
    assert len(replica.asked) == 1


def test_a_replica_that_does_not_serve_the_version_yet_costs_a_try_at_the_next() -> None:
    loading = Replica(refuse(grpc.StatusCode.UNAVAILABLE, "version 7 is not at ready state"))
    assert asked_of(loading, Replica(score=2), hedge_after_s=20) == 2
    assert len(loading.asked) == 1


def test_tensors_that_are_refused_are_not_sent_again() -> None:
    replica = Replica(refuse(grpc.StatusCode.INVALID_ARGUMENT, "unexpected shape"))
    with pytest.raises(ServingError, match="refused the request: unexpected shape"):
        asked_of(replica, hedge_after_s=20, deadline_s=60)
    assert len(replica.asked) == 1
