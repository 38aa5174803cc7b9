"""Ask several Triton replicas without blocking: a deadline, one hedged retry, requests encoded once.

A request that is late, or whose replica is gone, is sent a second time (to the next replica, or to the
same); whichever answers first counts and the other is cancelled.

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
        first = next(self._turn)
        attempts = {asyncio.create_task(self._attempt(first, request, ends))}
        done, _ = await asyncio.wait(attempts, timeout=self._hedge_after_s)
        if not done or _may_try_again(next(iter(done))):
            attempts.add(asyncio.create_task(self._attempt(first + 1, request, ends)))
        try:
            return await self._first_answer(attempts)
        finally:
            for attempt in attempts:
                attempt.cancel()

    async def are_ready(self, model: str, version: int, timeout_s: float = 1.0) -> list[bool | None]:
        """Whether each replica serves this version now; None where it does not answer."""
        request = proto.ModelReadyRequest(name=model, version=str(version))

        async def ask(ready: grpc.aio.UnaryUnaryMultiCallable) -> bool | None:
            try:
                return bool((await ready(request, timeout=timeout_s)).ready)
            except grpc.aio.AioRpcError as error:
                return False if error.code() in _REFUSALS or _is_not_served(error) else None

        return await asyncio.gather(*(ask(ready) for ready in self._ready))

    async def _first_answer(self, attempts: set[asyncio.Task[Answer]]) -> Answer:
        pending, error = set(attempts), None
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                error = attempt.exception()
                if error is None:
                    return attempt.result()
        assert error is not None
        raise error

    async def _attempt(self, turn: int, request: bytes, ends: float) -> Answer:
        replica = turn % len(self._infer)
        left = ends - asyncio.get_running_loop().time()
        try:
            response = await self._infer[replica](request, timeout=max(left, 0.001))
        except grpc.aio.AioRpcError as error:
            raise _explained(error, self.addresses[replica], self._deadline_s) from None
        outputs = {
            output.name: np.frombuffer(content, triton_to_np_dtype(output.datatype)).reshape(output.shape)
            for output, content in zip(response.outputs, response.raw_output_contents, strict=True)
        }
        return Answer(outputs=outputs, version=int(response.model_version))


class _GoneError(ServingError):
    """No connection, or cut off: another try may meet a server."""


def _may_try_again(attempt: asyncio.Task[Answer]) -> bool:
    return isinstance(attempt.exception(), _GoneError)


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
