"""Vectors and their gradients in half precision on their way between processes: half of the bytes.

What is trained stays in float32: tables, their optimizer, everything that a process computes by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from fbgemm_gpu.quantize_comm import QuantizationContext
from fbgemm_gpu.split_embedding_configs import SparseType
from torch import Tensor, nn
from torchrec.distributed.fbgemm_qcomm_codec import FbgemmQuantizedCommCodec
from torchrec.distributed.types import CommOp, QuantizedCommCodecs

from leanrec.errors import ConfigError

FORMATS = {"fp16": (SparseType.FP16, torch.float16), "bf16": (SparseType.BF16, torch.bfloat16)}
GRADIENT_SCALE = 1024.0
"""What gradients are multiplied by while they travel: half precision ends at 6e-8, and a mean loss's
gradients are below that. One beyond 64 is cut there."""


def codecs_of(exchange: str, device: str) -> dict[str, QuantizedCommCodecs] | None:
    """TorchRec's codecs for an exchange in "fp16" or "bf16"; None for "fp32".

    Raises a ConfigError for what processes on `device` ("cpu", "cuda") cannot send.
    """
    if exchange == "fp32":
        return None
    if exchange == "bf16" and device == "cpu":
        raise ConfigError(
            "training.exchange: bf16 travels between GPUs alone (gloo has no bfloat16); take fp16 or fp32"
        )
    kind, _ = FORMATS[exchange]
    codecs = QuantizedCommCodecs(
        forward=FbgemmQuantizedCommCodec(kind),
        backward=_ScaledGradients(kind, is_fwd=False),
    )
    return {CommOp.SEQUENCE_EMBEDDINGS_ALL_TO_ALL.name: codecs}


@contextmanager
def as_exchanged(sparse: nn.Module, exchange: str) -> Iterator[None]:
    """Inside it a plain model's `sparse` answers vectors as rounded as those that have travelled."""

    def rounded(_module: nn.Module, _arguments: Any, vectors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {feature: vector.to(FORMATS[exchange][1]).float() for feature, vector in vectors.items()}

    if exchange == "fp32":
        yield
        return
    hook = sparse.register_forward_hook(rounded)
    try:
        yield
    finally:
        hook.remove()


class _ScaledGradients(FbgemmQuantizedCommCodec):
    """The scale is taken off in float32: fbgemm's own `loss_scale` is, in half precision, lost again."""

    def encode(self, input_tensor: Tensor, ctx: QuantizationContext | None = None) -> Tensor:
        return super().encode(input_tensor * GRADIENT_SCALE, ctx)

    def decode(self, input_tensor: Tensor, ctx: QuantizationContext | None = None) -> Tensor:
        return super().decode(input_tensor, ctx) / GRADIENT_SCALE
