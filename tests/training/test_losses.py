"""Losses worked out by hand, and what calibration promises."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from leanrec.config import RetrieverSettings
from leanrec.errors import ConfigError
from leanrec.training.losses import bce_loss, bpr_loss, gbce_power, softmax_loss

TAKEN_UP = torch.tensor([1.0, 0.0])
OTHERS = torch.tensor([[0.0, 2.0], [-30_000.0, 0.0]])
SHARE = torch.tensor([0.5, 0.5])


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def test_each_loss_has_the_value_worked_out_by_hand():
    softmax = softmax_loss(TAKEN_UP, OTHERS)
    assert softmax.tolist() == pytest.approx([math.log(math.e + 1 + math.e**2) - 1, math.log(2)])
    bpr = bpr_loss(TAKEN_UP, OTHERS, SHARE)
    assert bpr.tolist() == pytest.approx([(softplus(-1) + softplus(1)) / 2, math.log(2) / 2])
    bce = bce_loss(TAKEN_UP, OTHERS, SHARE, num_negatives=2)
    assert bce.tolist() == pytest.approx(
        [(softplus(-1) + softplus(0) + softplus(2)) / 3, 2 * math.log(2) / 3]
    )
    calibrated = bce_loss(TAKEN_UP, OTHERS, SHARE, num_negatives=2, power=0.25)
    assert calibrated.tolist()[1] == pytest.approx((0.25 * math.log(2) + math.log(2)) / 3)


def test_the_power_of_gbce_follows_its_paper():
    assert gbce_power(1, 5, 0.0) == pytest.approx(1.0)
    assert gbce_power(1, 5, 0.5) == pytest.approx(0.625)
    assert gbce_power(1, 5, 1.0) == pytest.approx(0.25)
    assert gbce_power(4, 5, 0.7) == gbce_power(400, 5, 0.7) == pytest.approx(1.0)


@pytest.mark.parametrize("probability", [0.02, 0.3, 0.8])
def test_full_calibration_learns_the_probability_that_sampled_bce_overrates(probability):
    """One item of 101, taken up with `probability`, else drawn as one of ten negatives out of a hundred."""
    num_negatives, num_items = 10, 101
    rate = num_negatives / (num_items - 1)
    learnt = {}
    for calibration in (0.0, 1.0):
        score = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        power = gbce_power(num_negatives, num_items, calibration)
        optimizer = torch.optim.LBFGS([score], max_iter=200, line_search_fn="strong_wolfe")

        def closure(power=power, score=score, optimizer=optimizer):
            optimizer.zero_grad()
            nothing, all_of_it = torch.full((1, 1), -30_000.0, dtype=torch.float64), torch.ones(1)
            taken_up = bce_loss(score, nothing, all_of_it, 1, power)
            drawn = bce_loss(torch.full_like(score, 30_000.0), score.unsqueeze(1), all_of_it, 1, power)
            loss = (probability * taken_up + (1 - probability) * rate * drawn).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        learnt[calibration] = float(torch.sigmoid(score.detach()))
    assert learnt[1.0] == pytest.approx(probability, rel=1e-3)
    assert learnt[0.0] > 1.2 * probability


@pytest.mark.parametrize(
    ("values", "way_out"),
    [
        ({"negatives": "in_batch"}, "set full_softmax_items: 0, or negatives: uniform"),
        ({"negatives": "hard"}, "set full_softmax_items: 0"),
        ({"loss": "gbce", "negatives": "popularity"}, "set negatives: uniform, or loss: bce"),
        ({"loss": "bpr", "negatives": "hard", "num_negatives": 9, "softmax_negatives": 8}, "lower the first"),
        ({"model": "sasrec", "dim": 30, "sasrec": {"heads": 4}}, "sasrec.heads 4"),
        ({"loss": "bpx"}, "'softmax', 'bce', 'bpr' or 'gbce'"),
        ({"model": "sasrek"}, "did you mean 'sasrec'"),
    ],
)
def test_pairs_that_cannot_be_are_refused_with_the_way_out(values, way_out):
    with pytest.raises(ConfigError, match=way_out) as caught:
        RetrieverSettings.parse(values)
    assert "\n" not in str(caught.value)


def test_what_nobody_set_suits_the_model_and_survives_being_written_down():
    settings = RetrieverSettings(model="sasrec", epochs=3)
    assert settings.epochs == 3
    assert RetrieverSettings.parse(settings.model_dump(mode="json")) == settings
    with pytest.raises(ValidationError):
        RetrieverSettings(negatives="in_batch")
