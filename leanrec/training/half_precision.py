"""Products of the dense part in fp16: the loss is scaled up, and gradients down again before weights move.

The gradients of a mean loss end below what half precision knows. The tables' optimizer is part of the
backward pass, so their gradients are scaled down on their way into it, in float32; the dense part's before
its step. The scale is a constant, so a checkpoint needs to hold nothing of it. Gradients that leave the range
of half precision are not followed: not by the dense part, and not by the table on the process that has them
(whose rows still lose their weight decay, which is no part of the product).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

LOSS_SCALE = 1024.0
"""What the loss is multiplied by."""


def unscaled(vectors: Tensor, scale: float) -> Tensor:
    """`vectors`; their gradient goes on divided by `scale`, or as zeros where it is no finite number."""
    unscaled_vectors: Tensor = _Unscaled.apply(vectors, scale)
    return unscaled_vectors


def unscale(parameters: Sequence[nn.Parameter], scale: float) -> bool:
    """Divide their gradients by `scale`; whether all of them are finite numbers."""
    finite = True
    for parameter in parameters:
        assert parameter.grad is not None
        parameter.grad /= scale
        finite = finite and bool(parameter.grad.isfinite().all())
    return finite


class _Unscaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return vectors.view_as(vectors)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        gradient = gradients[0].float() / ctx.scale
        return torch.where(gradient.isfinite().all(), gradient, torch.zeros_like(gradient)), None
