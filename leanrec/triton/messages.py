"""Requests and answers of Triton's gRPC interface as bytes and numpy arrays, and what both clients say to it.

Of tritonclient only the messages are used: its client encodes a request anew each time that it is sent, and a
hedged one, or that of a user as he is, is encoded once here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2 as proto
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

from leanrec.errors import ServingError

SERVICE = "/inference.GRPCInferenceService"
UNLIMITED = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
"""Options of a channel: gRPC's own limit of 4 MB is below a large batch."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The outputs by name, each with the batch axis first, and the model version that computed them."""

    outputs: dict[str, np.ndarray]
    version: int


def encode_request(model: str, version: int | None, inputs: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of an inference request: `inputs` by served name, each [B, ...]; no version: the newest.

    Raises ServingError for an array whose type Triton does not have.
    """
    shown = "" if version is None else str(version)
    request = proto.ModelInferRequest(model_name=model, model_version=shown)
    for name, array in inputs.items():
        dtype = np_to_triton_dtype(array.dtype)
        if dtype is None or dtype == "BYTES":
            raise ServingError(f"model {model}: Triton has no data type for input {name} ({array.dtype})")
        whole = np.ascontiguousarray(array)  # a number without a shape gets one, which Triton refuses
        request.inputs.add(name=name, datatype=dtype, shape=whole.shape)
        request.raw_input_contents.append(whole.tobytes())
    encoded: bytes = request.SerializeToString()
    return encoded


def decode_answer(response: proto.ModelInferResponse) -> Answer:
    """The outputs as arrays that cannot be written to: they are the message's own memory."""
    outputs = {
        output.name: np.frombuffer(content, triton_to_np_dtype(output.datatype)).reshape(tuple(output.shape))
        for output, content in zip(response.outputs, response.raw_output_contents, strict=True)
    }
    return Answer(outputs=outputs, version=int(response.model_version))


def infer_over(channel: Any) -> Any:
    """The call that takes `encode_request`'s bytes and answers a ModelInferResponse."""
    return channel.unary_unary(
        f"{SERVICE}/ModelInfer", response_deserializer=proto.ModelInferResponse.FromString
    )


def ready_over(channel: Any) -> Any:
    """The call that takes a ModelReadyRequest and answers a ModelReadyResponse."""
    return channel.unary_unary(
        f"{SERVICE}/ModelReady",
        request_serializer=proto.ModelReadyRequest.SerializeToString,
        response_deserializer=proto.ModelReadyResponse.FromString,
    )
