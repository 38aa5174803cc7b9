"""Ask several Triton replicas without blocking: a deadline, one hedged retry, requests encoded once.

A request that is late, or whose replica is gone or does not serve the version, is sent once more: to the next
replica, or to the same where there is one. Whichever answers first counts and the other is cancelled.

Source: Dean and Barroso, "The Tail at Scale", Communications of the ACM 56 (2013), hedged requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import count

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as proto
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

from leanrec.errors import ServingError
from leanrec.triton.client import Answer

_SERVICE = "/inference.GRPCInferenceService"
_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A replica that comes back is found again within a second; gRPC would wait up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_retries", 0),
)
_REFUSALS = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED}
_NOT_SERVED = ("unknown model", "is not at ready state", "is not found", "has no available versions")


class NotServedError(ServingError):
    """Triton answers, and does not serve this version of the model (any more, or yet)."""


def encode_request(model: str, version: int | None, inputs: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of an inference request: `inputs` by served name, each [B, ...]; no version: the newest."""
    shown = "" if version is None else str(version)
    request = proto.ModelInferRequest(model_name=model, model_version=shown)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
        request.raw_input_contents.append(np.ascontiguousarray(array).tobytes())
    return request.SerializeToString()


class AsyncTritonClient:
    """Connections to the replicas at `addresses` (host:port of their gRPC interfaces); needs a running loop.

    A request ends within `deadline_s`; after `hedge_after_s` without an answer it is sent once more.
    """

    def __init__(self, addresses: Sequence[str], *, deadline_s: float, hedge_after_s: float) -> None:
        self.addresses = tuple(addresses)
        self._deadline_s = deadline_s
        self._hedge_after_s = hedge_after_s
        self._turn = count()
        self._channels = [grpc.aio.insecure_channel(address, options=_OPTIONS) for address in addresses]
        self._infer = [
            channel.unary_unary(
                f"{_SERVICE}/ModelInfer", response_deserializer=proto.ModelInferResponse.FromString
            )
            for channel in self._channels
        ]
        self._ready = [
            channel.unary_unary(
                f"{_SERVICE}/ModelReady",
                request_serializer=proto.ModelReadyRequest.SerializeToString,
                response_deserializer=proto.ModelReadyResponse.FromString,
            )
            for channel in self._channels
        ]

    async def close(self) -> None:
        """Close the connections; calls under way are cancelled."""
        for channel in self._channels:
            await channel.close()

    async def infer(self, request: bytes) -> Answer:
        """The answer to a request of `encode_request`.

        Raises NotServedError when the version is not served, ServingError when no replica answers in time
        or the tensors are refused.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._deadline_s
        turn = next(self._turn)
        first = self._call(turn, request, ends)
        second: asyncio.Task[Answer] | None = None

        def ask_again() -> None:
            nonlocal second
            second = asyncio.create_task(self._attempt(turn + 1, request, ends))
            second.add_done_callback(lambda task: _is_answered(task) and first.cancel())

        # A timer and no task of its own: nearly every request is answered before it is due.
        timer = loop.call_later(self._hedge_after_s, ask_again)
        try:
            return _answer(await first)
        except grpc.aio.AioRpcError as error:
            failure = _explained(error, self._address(turn), self._deadline_s)
            if second is None and self._may_be_answered(failure):
                ask_again()
            if second is None:
                raise failure from None
            return await second
        except asyncio.CancelledError:
            if second is not None and _is_answered(second):
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

        async def ask(ready: grpc.aio.UnaryUnaryMultiCallable) -> bool | None:
            try:
                return bool((await ready(request, timeout=timeout_s)).ready)
            except grpc.aio.AioRpcError as error:
                return False if error.code() in _REFUSALS or _is_not_served(error) else None

        return await asyncio.gather(*(ask(ready) for ready in self._ready))

    def _call(self, turn: int, request: bytes, ends: float) -> grpc.aio.UnaryUnaryCall:
        left = ends - asyncio.get_running_loop().time()
        return self._infer[turn % len(self._infer)](request, timeout=max(left, 0.001))

    async def _attempt(self, turn: int, request: bytes, ends: float) -> Answer:
        try:
            return _answer(await self._call(turn, request, ends))
        except grpc.aio.AioRpcError as error:
            raise _explained(error, self._address(turn), self._deadline_s) from None

    def _may_be_answered(self, failure: ServingError) -> bool:
        """By another try: replicas load and unload a version one after the other, never all at once."""
        elsewhere = isinstance(failure, NotServedError) and len(self.addresses) > 1
        return elsewhere or isinstance(failure, _GoneError)

    def _address(self, turn: int) -> str:
        return self.addresses[turn % len(self.addresses)]


class _GoneError(ServingError):
    """No connection, or cut off: another try may meet a server."""


def _answer(response: proto.ModelInferResponse) -> Answer:
    outputs = {
        output.name: np.frombuffer(content, triton_to_np_dtype(output.datatype)).reshape(output.shape)
        for output, content in zip(response.outputs, response.raw_output_contents, strict=True)
    }
    return Answer(outputs=outputs, version=int(response.model_version))


def _is_answered(attempt: asyncio.Task[Answer]) -> bool:
    return attempt.done() and not attempt.cancelled() and attempt.exception() is None


def _is_not_served(error: grpc.aio.AioRpcError) -> bool:
    details = (error.details() or "").lower()
    return any(words in details for words in _NOT_SERVED)


def _explained(error: grpc.aio.AioRpcError, address: str, deadline_s: float) -> ServingError:
    if _is_not_served(error):
        return NotServedError(
            f"{address}: {error.details()}; `leanrec release status` lists what should be served"
        )
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return ServingError(f"{address}: no answer within {deadline_s:g} s; look at Triton's load")
    if error.code() in _REFUSALS:
        return ServingError(f"{address}: Triton refused the request: {error.details()}")
    return _GoneError(
        f"nothing answers at {address} ({error.code().name}); start a server with `leanrec serve`"
    )
