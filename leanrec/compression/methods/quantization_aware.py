"""quantization_aware: fine-tuning in which the model answers with the rounded weights that will be served.

In the forward pass every table and layer is rounded as the method on the graph that follows will round it;
the gradient passes as if nothing had been rounded (the straight-through estimator: Bengio et al. 2013,
arXiv:1308.3432; Jacob et al. 2018, arXiv:1712.05877). The weights stay float32: `int8_tables`,
`int4_tables` and their like, later in the recipe, round them in earnest. So it makes nothing smaller by
itself.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from leanrec.compression.fine_tuning import fine_tune
from leanrec.compression.method import ModelMethod
from leanrec.compression.source import CompressionSource
from leanrec.config.methods import QuantizationAware
from leanrec.models.recommender import Recommender

SYMMETRIC_LEVELS, ASYMMETRIC_LEVELS = 127, 15
TINY = 1e-8


class Rounded(nn.Module):
    """A matrix [N, D] rounded row by row: 8 bits symmetric, 4 bits asymmetric in blocks of columns."""

    def __init__(self, bits: int, block: int) -> None:
        super().__init__()
        self.bits, self.block = bits, block

    def forward(self, matrix: Tensor) -> Tensor:
        """The rounded matrix, with the gradient of the matrix itself."""
        with torch.no_grad():
            rounded = self._in_8_bits(matrix) if self.bits == 8 else self._in_4_bits(matrix)
        return matrix + (rounded - matrix).detach()

    @staticmethod
    def _in_8_bits(matrix: Tensor) -> Tensor:
        scale = (matrix.abs().amax(dim=1, keepdim=True) / SYMMETRIC_LEVELS).clamp(min=TINY)
        return (matrix / scale).round() * scale

    def _in_4_bits(self, matrix: Tensor) -> Tensor:
        blocks = matrix.split(self.block or matrix.shape[1], dim=1)
        return torch.cat([self._block_in_4_bits(block) for block in blocks], dim=1)

    @staticmethod
    def _block_in_4_bits(block: Tensor) -> Tensor:
        least, most = block.amin(dim=1, keepdim=True), block.amax(dim=1, keepdim=True)
        scale = ((most - least) / ASYMMETRIC_LEVELS).clamp(min=TINY)
        return ((block - least) / scale).round() * scale + least


def change(recommender: Recommender, settings: QuantizationAware, source: CompressionSource) -> Recommender:
    """`recommender` fine-tuned with rounded tables and layers; its weights are float32 again afterwards."""
    rounded: list[nn.Module] = []
    for module in recommender.modules():
        if isinstance(module, nn.Embedding):
            rounding = Rounded(settings.table_bits, settings.block)
        elif isinstance(module, nn.Linear) and settings.dense_bits is not None:
            rounding = Rounded(settings.dense_bits, settings.block)
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
