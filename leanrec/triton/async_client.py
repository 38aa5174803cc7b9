"""Ask several Triton replicas without blocking: a deadline, one hedged retry, requests encoded once.

A request that is late is sent once more, to the next replica, or to the same where there is one. Whichever
answers first counts and the other is cancelled. A replica that is gone, or does not serve the version, costs
a try at the next one; `replicas` remembers it.

Source: Dean and Barroso, "The Tail at Scale", Communications of the ACM 56 (2013), hedged requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc
from tritonclient.grpc import service_pb2 as proto

from leanrec.errors import ServingError
from leanrec.triton.messages import Answer, decode_answer
from leanrec.triton.replicas import Replica, Replicas, Resolve, Served

_REFUSALS = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED}
_NOT_SERVED = ("unknown model", "is not at ready state", "is not found", "has no available versions")
_NOTHING: Served = ("", None)


class NotServedError(ServingError):
    """Triton answers, and does not serve this version of the model (any more, or yet)."""


class GoneError(ServingError):
    """No connection, or cut off: another try may meet a server."""


class AsyncTritonClient:
    """The replicas behind `names` (host:port of their gRPC interfaces); needs a running loop.

    A request ends within `deadline_s`; after `hedge_after_s` without an answer it is sent once more. The
    names are resolved every `resolve_s` seconds once `follow` was called; before, each is one replica.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        deadline_s: float,
        hedge_after_s: float,
        resolve_s: float = 5.0,
        resolve: Resolve | None = None,
    ) -> None:
        self._deadline_s = deadline_s
        self._hedge_after_s = hedge_after_s
        self._replicas = Replicas(names, resolve_s, deadline_s, resolve)

    @property
    def addresses(self) -> list[str]:
        """host:port of every replica known now."""
        return [replica.address for replica in self._replicas.all()]

    async def follow(self) -> None:
        """Find every replica behind the names, now and from now on."""
        await self._replicas.follow()

    async def close(self) -> None:
        """Close the connections; calls under way are cancelled."""
        await self._replicas.close()

    async def infer(self, request: bytes, served: Served = _NOTHING, ends: float | None = None) -> Answer:
        """The answer to a request of `encode_request`; `served`: the model and version that it asks for.

        `ends`, for what several requests are made for in turn: the loop's time by which this one must be
        answered, where that is before the deadline. Raises NotServedError when the version is not served,
        ServingError when no replica answers in time or the tensors are refused.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        given_s = self._deadline_s if ends is None else min(self._deadline_s, ends - now)
        if given_s <= 0:
            raise ServingError(f"{served[0]}: not asked, for its time was over before; look at Triton's load")
        replica, *others = self._replicas.in_turn(served)
        first = replica.infer(request, timeout=given_s)
        second: asyncio.Task[Answer] | None = None

        def ask(replicas: Sequence[Replica]) -> asyncio.Task[Answer]:
            task = asyncio.create_task(self._first_answer(replicas, request, served, now, given_s))
            task.add_done_callback(lambda task: _is_answered(task) and first.cancel())
            return task

        def hedge() -> None:
            nonlocal second
            second = ask(others or [replica])

        # A timer and no task of its own: nearly every request is answered before it is due.
        timer = loop.call_later(self._hedge_after_s, hedge)
        try:
            answer = decode_answer(await first)
            replica.answered()
            return answer
        except grpc.aio.AioRpcError as error:
            failure = self._noted(error, replica, served, given_s, given_s)
            if second is None and _may_be_answered(failure, others):
                second = ask(others or [replica])
            if second is None:
                raise failure from None
            return await second
        except asyncio.CancelledError:
            if second is not None and _is_answered(second):
                replica.was_late()
                return second.result()
            raise
        finally:
            timer.cancel()
            first.cancel()
            if second is not None:
                second.cancel()

    async def are_ready(self, model: str, version: int, timeout_s: float = 1.0) -> list[bool | None]:
        """Whether each replica serves this version now; None where it does not answer."""
        request = proto.ModelReadyRequest(name=model, version=str(version))

        async def ask(replica: Replica) -> bool | None:
            try:
                return bool((await replica.ready(request, timeout=timeout_s)).ready)
            except grpc.aio.AioRpcError as error:
                return False if error.code() in _REFUSALS or _is_not_served(error) else None

        return await asyncio.gather(*(ask(replica) for replica in self._replicas.all()))

    async def _first_answer(
        self, replicas: Sequence[Replica], request: bytes, served: Served, begun: float, given_s: float
    ) -> Answer:
        """The answer of the first of `replicas` that gives one, or what the last of them said."""
        for number, replica in enumerate(replicas, 1):
            left = begun + given_s - asyncio.get_running_loop().time()
            try:
                answer = decode_answer(await replica.infer(request, timeout=max(left, 0.001)))
                replica.answered()
                return answer
            except grpc.aio.AioRpcError as error:
                failure = self._noted(error, replica, served, given_s, left)
                if number == len(replicas) or not _may_be_answered(failure, replicas[number:]):
                    raise failure from None
        raise AssertionError("there is always a replica to ask")

    def _noted(
        self, error: grpc.aio.AioRpcError, replica: Replica, served: Served, given_s: float, had_s: float
    ) -> ServingError:
        """What went wrong with a request that had `given_s` seconds, `had_s` of them at this replica, which
        remembers it."""
        failure = _explained(error, replica.address, given_s)
        if isinstance(failure, NotServedError):
            replica.lacks(served)
        elif error.code() == grpc.StatusCode.UNAVAILABLE:
            replica.failed()
        elif error.code() == grpc.StatusCode.DEADLINE_EXCEEDED and had_s >= min(
            self._hedge_after_s, self._deadline_s
        ):  # with less, because others took the time, it is not the replica that is late
            replica.was_late()
        return failure


def _may_be_answered(failure: ServingError, others: Sequence[Replica]) -> bool:
    """By another try: replicas load and unload a version one after the other, never all at once."""
    return isinstance(failure, GoneError) or (isinstance(failure, NotServedError) and bool(others))


def _is_answered(attempt: asyncio.Task[Answer]) -> bool:
    return attempt.done() and not attempt.cancelled() and attempt.exception() is None


def _is_not_served(error: grpc.aio.AioRpcError) -> bool:
    details = (error.details() or "").lower()
    return any(words in details for words in _NOT_SERVED)


def _explained(error: grpc.aio.AioRpcError, address: str, given_s: float) -> ServingError:
    if _is_not_served(error):
        return NotServedError(
            f"{address}: {error.details()}; `leanrec release status` lists what should be served"
        )
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return ServingError(f"{address}: no answer within {given_s:.3g} s; look at Triton's load")
    if error.code() in _REFUSALS:
        return ServingError(f"{address}: Triton refused the request: {error.details()}")
    return GoneError(
        f"nothing answers at {address} ({error.code().name}); start a server with `leanrec serve`"
    )
