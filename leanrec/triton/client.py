"""One thin gRPC client for Triton: infer by name, tensors in and out as numpy arrays."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Self

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as proto

from leanrec.errors import ServingError
from leanrec.triton.messages import UNLIMITED, Answer, decode_answer, encode_request, infer_over, ready_over

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+(%[^\]\s]+)?\]|[^\s:/]+):[0-9]{1,5}")


class TritonClient:
    """A connection to one Triton (`address` is host:port of its gRPC interface).

    Every call ends within `timeout_s` seconds. It may be used from several threads. Raises ServingError for
    what is no address.
    """

    def __init__(self, address: str, timeout_s: float = 10.0) -> None:
        if not _ADDRESS.fullmatch(address):
            raise ServingError(f"{address!r} is no address of a gRPC interface; give host:port")
        self.address = address
        self.timeout_s = timeout_s
        self._channel = grpc.insecure_channel(address, options=UNLIMITED)
        self._infer, self._ready = infer_over(self._channel), ready_over(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; once is enough, twice does no harm."""
        self._channel.close()

    def infer(
        self,
        model: str,
        inputs: Mapping[str, np.ndarray],
        *,
        version: int | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """Run `model` on `inputs` (each [B, ...]); without `version`, Triton takes the newest it serves.

        Raises ServingError when nothing listens, the deadline passes, the model or version is not
        served, or Triton refuses the tensors.
        """
        deadline = self.timeout_s if timeout_s is None else timeout_s
        request = encode_request(model, version, inputs)
        try:
            return decode_answer(self._infer(request, timeout=deadline))
        except grpc.RpcError as error:
            raise self._explained(error, model, deadline) from None

    def is_ready(self, model: str, version: int | None = None) -> bool:
        """Whether `model` (in `version`, or in any) answers now."""
        request = proto.ModelReadyRequest(name=model, version="" if version is None else str(version))
        try:
            return bool(self._ready(request, timeout=self.timeout_s).ready)
        except grpc.RpcError:
            return False

    def wait_until_ready(self, model: str, version: int | None = None, timeout_s: float = 60.0) -> None:
        """Return once `model` answers; a ServingError after `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        while not self.is_ready(model, version):
            if time.monotonic() > deadline:
                shown = model if version is None else f"{model} version {version}"
                raise ServingError(f"{self.address}: {shown} was not ready within {timeout_s:g} s")
            time.sleep(0.05)

    def _explained(self, error: grpc.RpcError, model: str, deadline: float) -> ServingError:
        status, message = error.code(), error.details() or ""
        if "unknown model" in message or "version" in message.lower():
            return ServingError(
                f"{self.address}: {message}; `leanrec release status` lists what should be served"
            )
        if status == grpc.StatusCode.UNAVAILABLE:
            return ServingError(f"nothing answers at {self.address}; start a server with `leanrec serve`")
        if status == grpc.StatusCode.DEADLINE_EXCEEDED:
            return ServingError(
                f"{self.address}: model {model} did not answer within {deadline:g} s; look at its load or"
                " give the call more time"
            )
        return ServingError(f"{self.address}: model {model} refused the request: {message}")
