"""quantization_aware: fine-tuning in which the model answers with the rounded weights that will be served.

In the forward pass every table and layer is rounded as the method on the graph that follows will round it;
the gradient passes as if nothing had been rounded (the straight-through estimator: Bengio et al. 2013,
arXiv:1308.3432; Jacob et al. 2018, arXiv:1712.05877). The weights stay float32: `int8_tables`,
`int4_tables` and their like, later in the recipe, round them in earnest. So it makes nothing smaller by
itself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from leanrec.compression.fine_tuning import fine_tune
from leanrec.compression.method import ModelMethod
from leanrec.compression.methods import int4, int8_tables
from leanrec.compression.source import CompressionSource
from leanrec.config.methods import Int8Tables, QuantizationAware
from leanrec.models.recommender import Recommender

TINY = 1e-8
SMALLEST = {8: float(int8_tables.SMALLEST), 4: float(int4.SMALLEST)}
"""Bits -> the smallest asymmetric scale."""


class Rounded(nn.Module):
    """A matrix [N, D] rounded row by row, or in blocks of columns (0: the whole row)."""

    def __init__(self, bits: int, block: int, *, symmetric: bool) -> None:
        super().__init__()
        self.bits, self.block, self.symmetric = bits, block, symmetric

    def forward(self, matrix: Tensor) -> Tensor:
        """The rounded matrix, with the gradient of the matrix itself."""
        with torch.no_grad():
            blocks = matrix.split(self.block or matrix.shape[1], dim=1)
            rounded = torch.cat([self._rounded(block) for block in blocks], dim=1)
        return matrix + (rounded - matrix).detach()

    def _rounded(self, block: Tensor) -> Tensor:
        if self.symmetric:
            levels = 2 ** (self.bits - 1) - 1
            scale = (block.abs().amax(dim=1, keepdim=True) / levels).clamp(min=TINY)
            return (block / scale).round() * scale
        levels = 2**self.bits - 1
        least = _as_half(block.amin(dim=1, keepdim=True), torch.floor)
        span = block.amax(dim=1, keepdim=True) - least
        scale = _as_half(span / levels, torch.ceil).clamp(min=SMALLEST[self.bits])
        return ((block - least) / scale).round() * scale + least


def _as_half(values: Tensor, to_whole: Callable[[Tensor], Tensor]) -> Tensor:
    """`values` with a half's 11 binary digits, beyond its range, too; `to_whole` finds the last one."""
    last = torch.ldexp(torch.ones_like(values), torch.frexp(values).exponent.clamp(min=-13) - 11)
    return to_whole(values / last) * last


def _of_tables(settings: QuantizationAware) -> Rounded:
    """As int8_tables or int4_tables rounds."""
    form = settings.form_of_tables()
    symmetric = isinstance(form, Int8Tables) and form.symmetric
    return Rounded(settings.table_bits, form.block, symmetric=symmetric)


def _of_layers(bits: int, block: int) -> Rounded:
    """As int8_dense or int4_dense rounds."""
    return Rounded(bits, block if bits == 4 else 0, symmetric=bits != 4)


def change(recommender: Recommender, settings: QuantizationAware, source: CompressionSource) -> Recommender:
    """`recommender` fine-tuned with rounded tables and layers; its weights are float32 again afterwards."""
    rounded: list[nn.Module] = []
    for module in recommender.modules():
        if isinstance(module, nn.Embedding):
            rounding = _of_tables(settings)
        elif isinstance(module, nn.Linear) and settings.dense_bits is not None:
            rounding = _of_layers(settings.dense_bits, settings.block)
        else:
            continue
        parametrize.register_parametrization(module, "weight", rounding)
        rounded.append(module)
    try:
        return fine_tune(recommender, source, settings)
    finally:
        for module in rounded:
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)


QUANTIZATION_AWARE = ModelMethod(
    name="quantization_aware",
    change=change,
)
