"""Tables kept in half precision, and tables behind a device's cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from training_world import SMALL, write_world

from leanrec.config.optimizer import OptimizerSettings
from leanrec.errors import TrainingError
from leanrec.files import read_json
from leanrec.models.inputs import read_item_inputs
from leanrec.models.recommender import Recommender
from leanrec.schema import ModelSpec
from leanrec.training.course import Course, refuse_no_numbers
from leanrec.training.examples import TRAIN, Examples, read_examples
from leanrec.training.layout import Layout
from leanrec.training.objectives import RetrieverObjective
from leanrec.training.replicas import Replicas
from leanrec.training.sharded_model import ShardedModel
from leanrec.training.sparse import in_full
from leanrec.training.watching import Watch

pytestmark = pytest.mark.usefixtures("one_process")
Made = tuple[Examples, Recommender, Callable[..., ShardedModel]]
ULP = 2.0**-11
"""What half precision rounds off at most, of the number."""


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """64 events, a plain model, and what shards it."""
    features, training_set = write_world(tmp_path)
    spec = ModelSpec(**{**read_json(features / "spec.json"), "top_k": SMALL.top_k})
    retriever = SMALL.retriever.model_copy(update={"dropout": 0.0})
    settings = SMALL.model_copy(update={"retriever": retriever})
    torch.manual_seed(1)
    recommender = Recommender(spec, settings, read_item_inputs(features / "items.parquet"))

    def sharded(layout: Layout, tables: str = "adagrad") -> ShardedModel:
        return ShardedModel(
            RetrieverObjective(recommender.retriever, retriever),
            learning_rate=0.01,
            weight_decay=0.0,
            table_learning_rate=0.1,
            optimizer=OptimizerSettings.parse({"tables": tables}),
            layout=layout,
            device=torch.device("cpu"),
        )

    return read_examples(training_set, TRAIN, spec).take(torch.arange(64)), recommender, sharded


def step(model: ShardedModel, events: Examples) -> None:
    with Watch("retriever").epoch(0, 1) as watch:
        model.step(events, torch.Generator().manual_seed(1), watch=watch)


@pytest.mark.parametrize("tables", ["adagrad", "rowwise_adagrad"])
def test_tables_in_half_precision_move_as_others_to_its_rounding(made: Made, tables: str) -> None:
    events, _, sharded = made
    full, half = sharded(Layout(), tables), sharded(Layout(precision="fp16"), tables)
    starts = in_full(half.weights())
    for model in (full, half):
        step(model, events)
    weights, rounded, sums, of_rounded = map(
        in_full, (full.weights(), half.weights(), full.sums(), half.sums())
    )
    named = [name for name in weights if name.startswith("sparse.tables.")]
    assert len(named) == len(sums) > 1
    for name in named:
        assert half.weights()[name].dtype == torch.float16 != full.weights()[name].dtype
        assert torch.equal(rounded[name], rounded[name].half().float())
        # Once where it starts and once where it ends; in between gradients of the rounded rows.
        allowed = 2 * ULP * torch.maximum(weights[name].abs(), starts[name].abs()) + 1e-3
        assert bool(((rounded[name] - weights[name]).abs() <= allowed).all()), name
        assert float((rounded[name] - starts[name]).abs().max()) > 1e-2, name
    for table, own in sums.items():
        assert of_rounded[table].dtype == torch.float32
        torch.testing.assert_close(of_rounded[table], own, rtol=2e-2, atol=1e-7, msg=table)


def test_what_is_gathered_of_them_answers_as_they_do(made: Made) -> None:
    events, recommender, sharded = made
    model = sharded(Layout(precision="fp16"))
    step(model, events)
    model.gather(recommender.retriever)
    plain = RetrieverObjective(recommender.retriever, recommender.settings.retriever)
    for each in (plain, model.parallel):
        each.eval()
    with torch.no_grad():
        ours, theirs = model.objective.scores(events), plain.scores(events)  # type: ignore[operator]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_weight_beyond_half_precision_is_refused_before_any_is_written(made: Made) -> None:
    _, recommender, sharded = made
    model = sharded(Layout(precision="fp16"))
    before = in_full(model.weights())
    weights = {name: weight + 1 for name, weight in recommender.retriever.state_dict().items()}
    weights["sparse.tables.item.weight"] = weights["sparse.tables.item.weight"] * 1e6
    with pytest.raises(TrainingError, match=r"the table 'item' has a weight .*e\+0\d.*table_precision: fp32"):
        model.load(weights)
    after = in_full(model.weights())
    assert all(torch.equal(after[name], before[name]) for name in before)
    sharded(Layout()).load(weights)  # in float32 it is no fault


def test_rows_at_the_end_of_half_precision_end_the_training(made: Made) -> None:
    """A CPU rounds beyond it to infinity, a GPU to the largest number there is."""
    model = made[2](Layout(precision="fp16"))
    course = cast(Course, SimpleNamespace(name="retriever", to_go_on="begin anew"))
    refuse_no_numbers(course, "epoch 1", model)
    for last in (65504.0, torch.inf):
        model.weights()["sparse.tables.item.weight"].local_shards()[0].tensor[3, 1] = last
        with pytest.raises(TrainingError, match="no number, or one beyond half precision, after epoch 1"):
            refuse_no_numbers(course, "epoch 1", model)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of fbgemm's caches, and what is written, in order: on a CPU nothing is cached."""
    told: list[str] = []
    for name in ("flush", "reset_cache_states"):
        monkeypatch.setattr(
            SplitTableBatchedEmbeddingBagsCodegen, name, lambda _, name=name: told.append(name)
        )
    copied = torch.Tensor.copy_

    def write(own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        told.append("write")
        return copied(own, other)

    monkeypatch.setattr(torch.Tensor, "copy_", write)
    return told


def steps_of(calls: list[str]) -> list[str]:
    """`calls`, each once of those that follow each other."""
    return [name for name, _ in groupby(calls)]


def test_a_cache_is_written_back_before_weights_are_read_and_forgotten_when_they_are_written(
    made: Made, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, recommender, sharded = made
    model = sharded(Layout(cache=0.2))
    calls.clear()
    model.weights()
    assert steps_of(calls) == ["flush"]
    calls.clear()
    model.load(dict(recommender.retriever.state_dict()))
    assert steps_of(calls) == ["flush", "write", "reset_cache_states"]
    calls.clear()
    model.spread_first_replica()  # after a checkpoint was read into the tables' own memory
    assert steps_of(calls) == ["reset_cache_states"]
    model._replicas = replace(model._replicas, num=2)
    for name in ("spread", "average"):
        monkeypatch.setattr(Replicas, name, lambda _, parts: calls.append("write"))
    calls.clear()
    model.spread_first_replica()
    assert steps_of(calls) == ["reset_cache_states", "flush", "write", "reset_cache_states"]
    calls.clear()
    model.average_replicas()
    assert steps_of(calls) == ["flush", "write", "reset_cache_states"]
