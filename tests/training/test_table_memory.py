"""Tables kept in half precision, and tables behind a device's cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from training_world import SMALL, write_world

from leanrec.config.optimizer import OptimizerSettings
from leanrec.files import read_json
from leanrec.models.inputs import read_item_inputs
from leanrec.models.recommender import Recommender
from leanrec.schema import ModelSpec
from leanrec.training.examples import TRAIN, Examples, read_examples
from leanrec.training.layout import Layout
from leanrec.training.objectives import RetrieverObjective
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


def test_a_cache_is_written_back_before_weights_are_read_and_forgotten_when_they_are_written(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Order alone: on a CPU nothing is cached. What the two calls do is fbgemm's."""
    _, recommender, sharded = made
    model = sharded(Layout(cache=0.2))
    calls: list[str] = []
    for name in ("flush", "reset_cache_states"):
        monkeypatch.setattr(
            SplitTableBatchedEmbeddingBagsCodegen, name, lambda _, name=name: calls.append(name)
        )
    model.weights()
    assert set(calls) == {"flush"}
    calls.clear()
    fill_with = {name: weight + 1 for name, weight in recommender.retriever.state_dict().items()}
    copied = torch.Tensor.copy_

    def writes(own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        calls.append("write")
        return copied(own, other)

    monkeypatch.setattr(torch.Tensor, "copy_", writes)
    model.load(fill_with)
    last_write = len(calls) - 1 - calls[::-1].index("write")
    assert set(calls[last_write + 1 :]) == {"reset_cache_states"}
    calls.clear()
    model.spread_first_replica()  # after a checkpoint was read into the tables' own memory
    assert set(calls) == {"reset_cache_states"}
