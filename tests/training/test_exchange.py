"""Half precision on the way: what is lost of vectors and of gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from leanrec.config import TrainingSettings
from leanrec.errors import ConfigError
from leanrec.training.exchange import as_exchanged, codecs_of

HALF_ROUNDING = 2.0**-11
"""Largest relative error of the nearest number in half precision."""


def test_float32_needs_no_codec_and_bfloat16_no_cpu() -> None:
    assert codecs_of("fp32", "cpu") is None
    with pytest.raises(ConfigError, match=r"bf16 travels between GPUs alone .* take fp16 or fp32"):
        codecs_of("bf16", "cpu")


def test_int8_is_refused_with_its_reason() -> None:
    with pytest.raises(ConfigError, match=r"int8 is not offered: .* packs 32 numbers .* take fp16"):
        TrainingSettings.parse({"exchange": "int8"})


@pytest.mark.parametrize("size", [1e-7, 1e-4, 1.0, 10.0])
def test_gradients_come_back_to_a_rounding_however_small(size: float) -> None:
    (codecs,) = (codecs_of("fp16", "cpu") or {}).values()
    gradients = size * torch.randn(1000, generator=torch.Generator().manual_seed(1))
    sent = codecs.backward.encode(gradients)
    assert sent.dtype == torch.float16
    lost = (codecs.backward.decode(sent) - gradients).abs()
    smallest = 2.0**-25 / 1024  # half a step of the numbers nearest to 0, by the scale
    assert bool((lost <= HALF_ROUNDING * gradients.abs() + smallest).all())


def test_a_plain_model_answers_what_would_have_travelled_and_then_its_own_again() -> None:
    class Sparse(nn.Module):
        def forward(self, value: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"item": value}

    sparse, value = Sparse(), torch.tensor([1 / 3, 1e-9, 1000.1])
    (codecs,) = (codecs_of("fp16", "cpu") or {}).values()
    with as_exchanged(sparse, "fp16"):
        assert torch.equal(sparse(value)["item"], codecs.forward.decode(codecs.forward.encode(value)))
    with as_exchanged(sparse, "fp32"):
        assert torch.equal(sparse(value)["item"], value)
    assert torch.equal(sparse(value)["item"], value)
