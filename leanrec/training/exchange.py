"""Vectors and their gradients in fewer bits on their way between processes: half of the bytes, or fewer.

`int8` packs each vector into bytes between its least and its largest number (Yang et al. 2020, "Training Deep
Learning Recommendation Model with Quantized Collective Communications", DLP-KDD); gradients then travel in
half precision. What is trained stays as it is: tables, their optimizer, all that a process computes itself.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from fbgemm_gpu.quantize_comm import QuantizationContext
from fbgemm_gpu.split_embedding_configs import SparseType
from torch import Tensor, nn
from torchrec.distributed.fbgemm_qcomm_codec import FbgemmQuantizedCommCodec
from torchrec.distributed.types import CommOp, QuantizedCommCodecs

from leanrec.errors import ConfigError
from leanrec.models.layers import SparseArch

FORMATS = {"fp16": (SparseType.FP16, torch.float16), "bf16": (SparseType.BF16, torch.bfloat16)}
PIECE = 128
"""TorchRec cuts a table's columns into pieces of so many, and what is left."""
SCALE_BYTES = 8
"""Of a packed row: its least number and its step."""
GRADIENT_SCALE = 1024.0
"""What gradients are multiplied by while they travel: half precision ends at 6e-8, and a mean loss's
gradients are below that. One beyond 64 is cut there."""


def codecs_of(exchange: str, device: str, dim: int) -> dict[str, QuantizedCommCodecs] | None:
    """TorchRec's codecs for vectors of `dim` numbers in "fp16", "bf16" or "int8"; None for "fp32".

    Raises a ConfigError for what processes on `device` ("cpu", "cuda") cannot send.
    """
    if exchange == "fp32":
        return None
    if exchange == "bf16" and device == "cpu":
        raise ConfigError(
            "training.exchange: bf16 travels between GPUs alone (gloo has no bfloat16); take fp16 or fp32"
        )
    kind, _ = FORMATS["fp16" if exchange == "int8" else exchange]
    codecs = QuantizedCommCodecs(
        forward=_PackedRows(packed_width(dim)) if exchange == "int8" else FbgemmQuantizedCommCodec(kind),
        backward=_ScaledGradients(kind, is_fwd=False),
    )
    return {CommOp.SEQUENCE_EMBEDDINGS_ALL_TO_ALL.name: codecs}


def packed_width(dim: int) -> int:
    """How many numbers of a vector share a scale: all, or what divides its pieces when columns are sharded.

    Raises a ConfigError where that is no multiple of 4, which the codec asks for.
    """
    width = dim if dim <= PIECE else math.gcd(dim, PIECE)
    if width % 4:
        raise ConfigError(
            f"training.exchange: int8 packs vectors of {width} numbers (dim {dim}), which must be a multiple "
            "of 4; change retriever.dim or ranker.dim, or take fp16"
        )
    return width


def vector_bytes(exchange: str, dim: int) -> tuple[int, int]:
    """Bytes of a vector of `dim` numbers on its way, and of its gradient."""
    if exchange == "int8":
        return dim + SCALE_BYTES * (dim // packed_width(dim)), 2 * dim
    size = (4 if exchange == "fp32" else 2) * dim
    return size, size


@contextmanager
def as_exchanged(sparse: SparseArch, exchange: str, *, whole: Collection[str] = ()) -> Iterator[None]:
    """Inside it a plain model's `sparse` answers vectors as rounded as those that have travelled.

    Those of the tables `whole` do not travel.
    """

    def rounded(_module: nn.Module, _arguments: Any, vectors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            feature: vector if sparse.features[feature] in whole else _rounded(vector, exchange)
            for feature, vector in vectors.items()
        }

    if exchange == "fp32":
        yield
        return
    hook = sparse.register_forward_hook(rounded)
    try:
        yield
    finally:
        hook.remove()


def _rounded(vectors: Tensor, exchange: str) -> Tensor:
    if exchange != "int8":
        return vectors.to(FORMATS[exchange][1]).float()
    codec = _PackedRows(packed_width(vectors.shape[-1]))
    context = codec.create_context()
    return codec.decode(codec.encode(vectors.contiguous(), context), context).view_as(vectors)


class _PackedRows(FbgemmQuantizedCommCodec):
    """Bytes between the least and the largest of `width` numbers.

    fbgemm's own context has 32 for a width, whatever a vector's is: a process that sends a count which is no
    multiple of that ends with an error of shapes.
    """

    def __init__(self, width: int) -> None:
        super().__init__(SparseType.INT8)
        self.width = width

    def create_context(self) -> QuantizationContext:
        return QuantizationContext(row_dim=self.width)


class _ScaledGradients(FbgemmQuantizedCommCodec):
    """The scale is taken off in float32: fbgemm's own `loss_scale` is, in half precision, lost again."""

    def encode(self, input_tensor: Tensor, ctx: QuantizationContext | None = None) -> Tensor:
        return super().encode(input_tensor * GRADIENT_SCALE, ctx)

    def decode(self, input_tensor: Tensor, ctx: QuantizationContext | None = None) -> Tensor:
        return super().decode(input_tensor, ctx) / GRADIENT_SCALE
