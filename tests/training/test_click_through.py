"""Click models: what they compute, what they learn, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import roc_auc_score

from leanrec.config.click_through import ClickThroughSettings
from leanrec.errors import TrainingError
from leanrec.models.click_through import CLICK_MODELS
from leanrec.training import click_through
from leanrec.training.click_through import (
    ClickTrainer,
    Impressions,
    fit_clicks,
    number_format,
    predict_clicks,
)

CARDINALITIES = (30, 20, 4)
SMALL = ClickThroughSettings(
    dim=4, hidden=(16,), cross_layers=2, epochs=8, batch_size=64, learning_rate=0.01, precision="float32"
)


def impressions(number: int = 2000, seed: int = 1) -> Impressions:
    """A click is likely where the first field's value and the second's are both even, or both odd."""
    draw = torch.Generator().manual_seed(seed)
    fields = torch.stack([torch.randint(0, n, (number,), generator=draw) for n in CARDINALITIES], dim=1)
    alike = (fields[:, 0] + fields[:, 1]) % 2 == 0
    noise = torch.rand(number, generator=draw) < 0.1
    return Impressions(fields, (alike ^ noise).float())


@pytest.mark.parametrize("name", CLICK_MODELS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_click_model_learns_what_only_two_fields_together_tell(name, precision):
    settings = SMALL.model_copy(update={"model": name, "precision": precision})
    model, epochs = fit_clicks(impressions(), CARDINALITIES, settings)
    unseen = impressions(seed=2)
    assert roc_auc_score(unseen.clicked, predict_clicks(model, unseen.fields)) > 0.8
    assert len(epochs) == 8 and epochs[-1].loss < epochs[0].loss


@pytest.mark.parametrize(
    ("amx", "avx512", "chosen"), [(0, 0, "float32"), (0, 1, "bfloat16"), (1, 0, "bfloat16")]
)
def test_a_network_learns_in_bfloat16_where_the_processor_multiplies_it(monkeypatch, amx, avx512, chosen):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: bool(amx))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bool(avx512))
    assert number_format("auto") is getattr(torch, chosen)
    assert number_format("float32") is torch.float32 and number_format("bfloat16") is torch.bfloat16


@pytest.mark.parametrize("name", CLICK_MODELS)
def test_the_same_seed_gives_the_same_weights(name):
    settings = SMALL.model_copy(update={"model": name, "epochs": 1})
    first, again = (fit_clicks(impressions(200), CARDINALITIES, settings)[0] for _ in range(2))
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.mark.parametrize("name", CLICK_MODELS)
def test_a_model_starts_as_wide_as_its_layers_keep_variance_and_unbiased(name):
    torch.manual_seed(1)
    settings = ClickThroughSettings(model=name, dim=10, hidden=(400, 400))
    model = CLICK_MODELS[name]((50,) * 10, settings)
    second = model.deep[3]
    assert float(second.weight.detach().std()) == pytest.approx((2 / 800) ** 0.5, rel=0.02)
    assert not second.bias.any() and not model.over.bias.any()


def test_a_large_table_moves_only_the_rows_that_a_step_touched():
    settings = SMALL.model_copy(update={"batch_size": 2})
    model = CLICK_MODELS["dcn_v2"](CARDINALITIES, settings)
    before = model.table.detach().clone()
    rows = torch.tensor([[0, 1, 2], [5, 6, 3]]) + model.offsets
    ClickTrainer(model, settings).step(rows, torch.tensor([0.0, 1.0]))
    assert model.sparse_gradient
    moved = (model.table.detach() != before).any(dim=1).nonzero().squeeze(1)
    assert moved.tolist() == sorted(rows.flatten().tolist())


def test_one_step_of_either_kind_of_adam_is_the_same():
    steps = []
    for batch_size in (2, 2000):  # as large a batch as that is taken for one that touches all rows
        torch.manual_seed(3)
        settings = SMALL.model_copy(update={"batch_size": batch_size})
        model = CLICK_MODELS["deep_fm"](CARDINALITIES, settings)
        rows = torch.tensor([[0, 1, 2], [5, 1, 3]]) + model.offsets
        ClickTrainer(model, settings).step(rows, torch.tensor([0.0, 1.0]))
        steps.append(model.table.detach())
    torch.testing.assert_close(*steps, atol=1e-4, rtol=0)  # their epsilon stands in other places


@pytest.mark.parametrize("batch_size", [2, 50])
def test_a_step_in_parts_is_the_step_of_the_whole_batch(monkeypatch, batch_size):
    """The last part is smaller; so small a batch size is taken for one that touches few rows of the table."""
    shown, stepped = impressions(50), []
    for part in (50, 16):
        monkeypatch.setattr(click_through, "PART", part)
        torch.manual_seed(3)
        settings = SMALL.model_copy(update={"batch_size": batch_size})
        model = CLICK_MODELS["dcn_v2"](CARDINALITIES, settings)
        loss = ClickTrainer(model, settings).step(shown.fields + model.offsets, shown.clicked)
        stepped.append((loss, *model.parameters()))
    assert model.sparse_gradient == (batch_size == 2)
    for whole, in_parts in zip(*stepped, strict=True):
        torch.testing.assert_close(whole, in_parts, atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda i: i._replace(clicked=torch.ones(len(i.clicked))), "every impression is clicked"),
        (lambda i: i._replace(fields=i.fields[:, :2]), "do not fit"),
        (lambda i: i._replace(fields=i.fields + 1), r"field 0 must lie in 0..29, it has 1..30"),
    ],
)
def test_impressions_that_teach_nothing_are_refused_in_one_sentence(damage, told):
    with pytest.raises(TrainingError, match=told):
        fit_clicks(damage(impressions()), CARDINALITIES, SMALL)


def test_a_loss_that_is_no_number_names_the_learning_rate():
    with pytest.raises(TrainingError, match="lower learning_rate"):
        fit_clicks(impressions(), CARDINALITIES, SMALL.model_copy(update={"learning_rate": 1e30}))
