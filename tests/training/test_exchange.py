"""Fewer bits on the way: what is lost of vectors and of gradients."""

from __future__ import annotations

import pytest
import torch

from leanrec.errors import ConfigError
from leanrec.models.layers import SparseArch
from leanrec.training.exchange import as_exchanged, codecs_of, vector_bytes

HALF_ROUNDING = 2.0**-11
"""Largest relative error of the nearest number in half precision."""


def test_float32_needs_no_codec_and_bfloat16_no_cpu() -> None:
    assert codecs_of("fp32", "cpu", 8) is None
    with pytest.raises(ConfigError, match=r"bf16 travels between GPUs alone .* take fp16 or fp32"):
        codecs_of("bf16", "cpu", 8)


@pytest.mark.parametrize(("dim", "width"), [(4, 4), (24, 24), (128, 128), (192, 64), (512, 128)])
@pytest.mark.parametrize("num_rows", [0, 1, 7])
def test_vectors_packed_into_bytes_lose_half_a_step_at_most(dim: int, width: int, num_rows: int) -> None:
    (codecs,) = (codecs_of("int8", "cpu", dim) or {}).values()
    vectors = torch.randn(num_rows, dim, generator=torch.Generator().manual_seed(1))
    context = codecs.forward.create_context()
    sent = codecs.forward.encode(vectors.flatten(), context)
    assert sent.dtype == torch.uint8
    assert len(sent) == codecs.forward.calc_quantized_size(vectors.numel(), context)
    assert len(sent) == num_rows * vector_bytes("int8", dim)[0] == num_rows * (dim + 8 * dim // width)
    came = codecs.forward.decode(sent, context).view(-1, width)
    rows = vectors.view(-1, width)
    step = (rows.amax(1) - rows.amin(1)) / 255 if num_rows else rows.sum(1)
    assert bool(((came - rows).abs().amax(1) <= step * 0.5001).all()) if num_rows else came.numel() == 0


@pytest.mark.parametrize("dim", [10, 130])
def test_vectors_that_bytes_cannot_pack_are_refused_with_the_way_out(dim: int) -> None:
    with pytest.raises(ConfigError, match=rf"int8 packs vectors of .* \(dim {dim}\).* take fp16"):
        codecs_of("int8", "cpu", dim)


@pytest.mark.parametrize("size", [1e-7, 1e-4, 1.0, 10.0])
def test_gradients_come_back_to_a_rounding_however_small(size: float) -> None:
    (codecs,) = (codecs_of("fp16", "cpu", 8) or {}).values()
    gradients = size * torch.randn(1000, generator=torch.Generator().manual_seed(1))
    sent = codecs.backward.encode(gradients)
    assert sent.dtype == torch.float16
    lost = (codecs.backward.decode(sent) - gradients).abs()
    smallest = 2.0**-25 / 1024  # half a step of the numbers nearest to 0, by the scale
    assert bool((lost <= HALF_ROUNDING * gradients.abs() + smallest).all())


@pytest.mark.parametrize("exchange", ["fp16", "int8"])
def test_a_plain_model_answers_what_would_have_travelled_and_then_its_own_again(exchange: str) -> None:
    value = torch.tensor([[1 / 3, 1e-9, 1000.1, -2.5], [0.0, 0.0, 0.0, 0.0]])
    sparse = SparseArch({"film": 2, "sex": 2}, {"item": "film", "gender": "sex"}, dim=4)
    sparse.load_state_dict({f"tables.{table}.weight": value for table in ("film", "sex")})
    asked = {feature: torch.arange(2) for feature in ("item", "gender")}
    (codecs,) = (codecs_of(exchange, "cpu", 4) or {}).values()
    context = codecs.forward.create_context()
    travelled = codecs.forward.decode(codecs.forward.encode(value.flatten(), context), context)
    with as_exchanged(sparse, exchange, whole={"sex"}):
        assert torch.equal(sparse(asked)["item"], travelled.view_as(value))
        assert torch.equal(sparse(asked)["gender"], value), "what every process has does not travel"
    assert not torch.equal(travelled.view_as(value), value)
    with as_exchanged(sparse, "fp32"):
        assert torch.equal(sparse(asked)["item"], value)
    assert torch.equal(sparse(asked)["item"], value)
