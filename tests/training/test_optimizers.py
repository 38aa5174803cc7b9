"""Learning rates by the step, and dense gradients added up over steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_world import SMALL, write_world

from leanrec.config.optimizer import OptimizerSettings
from leanrec.files import read_json
from leanrec.models.inputs import read_item_inputs
from leanrec.models.recommender import Recommender
from leanrec.schema import ModelSpec
from leanrec.training.examples import TRAIN, Examples, read_examples
from leanrec.training.layout import Layout
from leanrec.training.objectives import RetrieverObjective
from leanrec.training.optimizers import group_of, rate_at
from leanrec.training.sharded_model import ShardedModel
from leanrec.training.sparse import in_full
from leanrec.training.watching import Watch


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({}, {0: 1.0, 39: 1.0}),
        ({"warmup_steps": 4}, {0: 0.25, 1: 0.5, 3: 1.0, 39: 1.0}),
        ({"schedule": "step"}, {0: 1.0, 9: 1.0, 10: 0.5, 39: 0.125}),
        ({"schedule": "step", "step_epochs": 2, "step_factor": 0.1}, {19: 1.0, 20: 0.1, 39: 0.1}),
        ({"schedule": "cosine"}, {0: 1.0, 20: 0.5, 40: 0.0, 99: 0.0}),
        ({"schedule": "cosine", "warmup_steps": 20}, {0: 0.05, 19: 1.0, 20: 1.0, 30: 0.5, 40: 0.0}),
        ({"schedule": "cosine", "warmup_steps": 99}, {0: 1 / 99, 39: 40 / 99}),
    ],
)
def test_the_rate_at_a_step_of_four_epochs_of_ten(settings: dict, rates: dict[int, float]) -> None:
    found = {step: rate_at(OptimizerSettings(**settings), step, 10, 4) for step in rates}
    assert found == pytest.approx(rates, abs=1e-12)


def test_steps_are_grouped_and_the_last_group_holds_what_is_left() -> None:
    assert [group_of(step, 7, 3) for step in range(7)] == [
        *((0, 3), (1, 3), (2, 3)),
        *((0, 3), (1, 3), (2, 3)),
        (0, 1),
    ]
    assert [group_of(step, 2, 1) for step in range(2)] == [(0, 1), (0, 1)]


@pytest.fixture
def examples(tmp_path: Path) -> tuple[Examples, Recommender]:
    """64 events, and a model whose loss is their plain mean."""
    features, training_set = write_world(tmp_path)
    spec = ModelSpec(**{**read_json(features / "spec.json"), "top_k": SMALL.top_k})
    retriever = SMALL.retriever.model_copy(update={"disliked_weight": 1.0, "dropout": 0.0})
    settings = SMALL.model_copy(update={"retriever": retriever})
    torch.manual_seed(1)
    recommender = Recommender(spec, settings, read_item_inputs(features / "items.parquet"))
    return read_examples(training_set, TRAIN, spec).take(torch.arange(64)), recommender


def sharded(recommender: Recommender, **settings: object) -> ShardedModel:
    objective = RetrieverObjective(recommender.retriever, recommender.settings.retriever)
    return ShardedModel(
        objective,
        learning_rate=0.01,
        weight_decay=0.0,
        table_learning_rate=0.0,
        optimizer=OptimizerSettings.parse(settings),
        layout=Layout(),
        device=torch.device("cpu"),
    )


def dense_of(model: ShardedModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.weights().items() if "sparse.tables" not in name}


def gradient_of(model: ShardedModel) -> torch.Tensor:
    """The gradient that the dense part moved by last."""
    return torch.cat([p.grad.flatten() for group in model.dense.param_groups for p in group["params"]])


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.mark.usefixtures("one_process")
def test_the_dense_part_moves_as_by_one_batch_when_its_halves_are_added_up(
    examples: tuple[Examples, Recommender],
) -> None:
    events, recommender = examples
    with Watch("retriever").epoch(0, 2) as watch:
        whole, halves = sharded(recommender), sharded(recommender, accumulate=2)
        before = dense_of(halves)
        draw = torch.Generator()
        whole.step(events, draw, watch=watch)
        for place in range(2):
            assert largest_difference(before, dense_of(halves)) == 0
            half = events.take(torch.arange(32) + 32 * place)
            halves.step(half, draw, place=place, size=2, watch=watch)
    assert largest_difference(before, dense_of(halves)) > 1e-3
    torch.testing.assert_close(gradient_of(halves), gradient_of(whole), rtol=1e-5, atol=1e-7)


@pytest.mark.usefixtures("one_process")
def test_a_gradient_beyond_its_norm_is_scaled_down(examples: tuple[Examples, Recommender]) -> None:
    events, recommender = examples
    norms = {}
    for clip_norm in (None, 1e-3):
        model = sharded(recommender, clip_norm=clip_norm)
        with Watch("retriever").epoch(0, 1) as watch:
            model.step(events, torch.Generator(), watch=watch)
        norms[clip_norm] = float(gradient_of(model).norm())
    assert norms[None] > 1e-2 and norms[1e-3] == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.usefixtures("one_process")
def test_row_wise_sums_are_the_means_of_adagrads_and_come_back_to_the_last_bit(
    examples: tuple[Examples, Recommender],
) -> None:
    events, recommender = examples
    sums, models = {}, {}
    with Watch("retriever").epoch(0, 2) as watch:
        for tables in ("adagrad", "rowwise_adagrad"):
            models[tables] = sharded(recommender, tables=tables)
            models[tables].step(events, torch.Generator(), watch=watch)
            sums[tables] = in_full(models[tables].sums())
    assert sums["adagrad"].keys() == sums["rowwise_adagrad"].keys() >= {"user", "item"}
    for table, value in sums["rowwise_adagrad"].items():
        means = sums["adagrad"][table].mean(dim=1, keepdim=True).expand_as(value)
        torch.testing.assert_close(value, means, rtol=1e-4, atol=1e-12)
    assert float(sums["rowwise_adagrad"]["item"].max()) > 0

    fresh = sharded(recommender, tables="rowwise_adagrad")
    fresh.load_sums(models["rowwise_adagrad"].sums())
    fresh.load_dense_state(models["rowwise_adagrad"].dense_state())
    taken_up = in_full(fresh.sums()) | fresh.dense_state()
    left = in_full(models["rowwise_adagrad"].sums()) | models["rowwise_adagrad"].dense_state()
    assert len(left) > len(sums["adagrad"])
    assert all(torch.equal(value, taken_up[name]) for name, value in left.items())


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_weight_decay_of_tables_is_an_l2_of_the_rows_looked_up(
    examples: tuple[Examples, Recommender], precision: str
) -> None:
    events, recommender = examples
    objective = RetrieverObjective(recommender.retriever, recommender.settings.retriever)
    objective(events, torch.Generator()).backward()
    tables = recommender.retriever.sparse.tables
    with Watch("retriever").epoch(0, 1) as watch:
        model = sharded(recommender, table_weight_decay=0.5, precision=precision)
        model.step(events, torch.Generator(), watch=watch)
        sums = in_full(model.sums())
    for name in ("user", "item"):
        weight, gradient = tables[name].weight.detach(), tables[name].weight.grad
        looked_up = gradient.abs().sum(dim=1) > 0
        assert looked_up.any() and not sums[name][~looked_up].any()
        expected = (gradient + 0.5 * weight)[looked_up].square()
        close = {"rtol": 1e-4, "atol": 1e-9} if precision == "fp32" else {"rtol": 0.05, "atol": 1e-4}
        torch.testing.assert_close(sums[name][looked_up], expected, **close)


@pytest.mark.usefixtures("one_process")
def test_a_rate_of_nothing_moves_neither_the_dense_part_nor_the_tables(
    examples: tuple[Examples, Recommender],
) -> None:
    events, recommender = examples
    objective = RetrieverObjective(recommender.retriever, recommender.settings.retriever)
    model = ShardedModel(
        objective,
        learning_rate=0.01,
        weight_decay=0.0,
        table_learning_rate=0.1,
        optimizer=OptimizerSettings(schedule="cosine"),
        layout=Layout(),
        device=torch.device("cpu"),
    )
    before = in_full(model.weights())
    with Watch("retriever").epoch(0, 2) as watch:
        model.step(events, torch.Generator(), rate=0.0, watch=watch)
        assert largest_difference(before, in_full(model.weights())) == 0
        model.step(events, torch.Generator(), rate=1.0, watch=watch)
    moved = in_full(model.weights())
    changed = {name for name in moved if not torch.equal(moved[name], before[name])}
    assert {name.startswith("sparse.tables") for name in changed} == {True, False}


@pytest.mark.usefixtures("one_process")
def test_half_precision_has_the_gradients_of_full_precision_in_tables_and_dense_part(
    examples: tuple[Examples, Recommender],
) -> None:
    events, recommender = examples
    sums, dense = {}, {}
    for precision in ("fp32", "fp16"):
        model = sharded(recommender, precision=precision)
        with Watch("retriever").epoch(0, 1) as watch:
            model.step(events, torch.Generator(), watch=watch)
        sums[precision], dense[precision] = in_full(model.sums()), gradient_of(model)
        assert model.num_skipped == 0
    assert 0 < float((dense["fp16"] - dense["fp32"]).norm()) < 1e-2 * float(dense["fp32"].norm())
    for table in ("user", "item"):
        full, half = (sums[precision][table].sqrt() for precision in ("fp32", "fp16"))
        assert float((half - full).norm()) < 1e-2 * float(full.norm()), table


@pytest.mark.usefixtures("one_process")
def test_gradients_beyond_half_precision_leave_all_weights_as_they_are(
    examples: tuple[Examples, Recommender],
) -> None:
    events, recommender = examples
    model = sharded(recommender, precision="fp16")
    model.objective.weights = (1e9,)
    before = in_full(model.weights())
    with Watch("retriever").epoch(0, 2) as watch:
        assert model.step(events, torch.Generator(), watch=watch) > 1e6
        assert model.num_skipped == 1
        assert largest_difference(before, in_full(model.weights())) == 0
        assert not any(bool(value.any()) for value in in_full(model.sums()).values())
        model.objective.weights = (1.0,)
        model.step(events, torch.Generator(), watch=watch)
    assert model.num_skipped == 1
    assert largest_difference(before, in_full(model.weights())) > 1e-3
