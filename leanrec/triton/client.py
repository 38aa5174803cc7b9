"""One thin gRPC client for Triton: infer by name, tensors in and out as numpy arrays."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from leanrec.errors import ServingError


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The outputs by name, each with the batch axis first, and the model version that computed them."""

    outputs: dict[str, np.ndarray]
    version: int


class TritonClient:
    """A connection to one Triton (`address` is host:port of its gRPC interface).

    Every call ends within `timeout_s` seconds. It may be used from several threads.
    """

    def __init__(self, address: str, timeout_s: float = 10.0) -> None:
        self.address = address
        self.timeout_s = timeout_s
        try:
            self._client = grpcclient.InferenceServerClient(address)
        except (InferenceServerException, ValueError) as error:
            raise ServingError(f"{address!r} is not a gRPC address ({error}); give host:port") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; once is enough, twice does no harm."""
        # Dropped too: the library's client closes itself again when it is collected, which fails at exit.
        client = vars(self).pop("_client", None)
        if client is not None:
            client.close()

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
        tensors = []
        for name, array in inputs.items():
            dtype = np_to_triton_dtype(array.dtype)
            if dtype is None:
                raise ServingError(f"model {model}: Triton has no data type for input {name} ({array.dtype})")
            whole = np.ascontiguousarray(array)  # a number without a shape gets one, which Triton refuses
            tensor = grpcclient.InferInput(name, list(whole.shape), dtype)
            tensor.set_data_from_numpy(whole)
            tensors.append(tensor)
        deadline = self.timeout_s if timeout_s is None else timeout_s
        try:
            result = self._client.infer(
                model, tensors, model_version="" if version is None else str(version), client_timeout=deadline
            )
        except InferenceServerException as error:
            raise self._explained(error, model, deadline) from None
        response = result.get_response()
        outputs = {output.name: result.as_numpy(output.name) for output in response.outputs}
        return Answer(outputs=outputs, version=int(response.model_version))

    def is_ready(self, model: str, version: int | None = None) -> bool:
        """Whether `model` (in `version`, or in any) answers now."""
        try:
            return bool(
                self._client.is_model_ready(
                    model, "" if version is None else str(version), client_timeout=self.timeout_s
                )
            )
        except InferenceServerException:
            return False

    def wait_until_ready(self, model: str, version: int | None = None, timeout_s: float = 60.0) -> None:
        """Return once `model` answers; a ServingError after `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        while not self.is_ready(model, version):
            if time.monotonic() > deadline:
                shown = model if version is None else f"{model} version {version}"
                raise ServingError(f"{self.address}: {shown} was not ready within {timeout_s:g} s")
            time.sleep(0.05)

    def _explained(self, error: InferenceServerException, model: str, deadline: float) -> ServingError:
        status, message = str(error.status()), error.message() or ""
        if "UNAVAILABLE" in status and "connect" in message.lower():
            return ServingError(f"nothing answers at {self.address}; start a server with `leanrec serve`")
        if "DEADLINE_EXCEEDED" in status:
            return ServingError(
                f"{self.address}: model {model} did not answer within {deadline:g} s; look at its load or"
                " give the call more time"
            )
        if "unknown model" in message or "version" in message.lower():
            return ServingError(
                f"{self.address}: {message}; `leanrec release status` lists what should be served"
            )
        return ServingError(f"{self.address}: model {model} refused the request: {message}")
