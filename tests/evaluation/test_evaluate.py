"""The whole step on a real model: what it writes, that it repeats, and when the gate stops a run."""

import pytest
import torch

from leanrec.config import EvaluationSettings, TrainingSettings
from leanrec.errors import DataError, GateError
from leanrec.evaluation.evaluate import answer, decide, evaluate_models
from leanrec.evaluation.protocol import load_protocol
from leanrec.files import read_json
from leanrec.gates import enforce_gate
from leanrec.models.inputs import ItemInputs
from leanrec.models.recommender import Recommender, load_model, save_model
from leanrec.schema import ModelSpec

SETTINGS = EvaluationSettings(ks=(5, 10))


@pytest.fixture(scope="module")
def model(world, tmp_path_factory):
    """A recommender with random weights: the gate must find that it is not good enough."""
    torch.manual_seed(0)
    spec = ModelSpec(**read_json(world.features / "spec.json"), top_k=20)
    items = ItemInputs(
        category_indices=torch.zeros(spec.num_items, 1, dtype=torch.long),
        release_year=torch.zeros(spec.num_items),
        statistics=torch.zeros(spec.num_items, 3),
    )
    folder = tmp_path_factory.mktemp("model")
    save_model(Recommender(spec, TrainingSettings(num_candidates=25, top_k=20), items), folder)
    return folder


@pytest.fixture(scope="module")
def evaluation(world, model, tmp_path_factory):
    output = tmp_path_factory.mktemp("evaluation") / "evaluation"
    paths = {"model": model, "features": world.features, "training_set": world.training_set}
    passed = evaluate_models(SETTINGS, **paths, output=output)
    return output, passed, paths


def test_the_figures_cover_models_baselines_and_ranking(evaluation):
    figures = read_json(evaluation[0] / "evaluation.json")
    assert set(figures["retrieval"]) == {"chain", "retriever", "popularity", "item_knn"}
    for lists in figures["retrieval"].values():
        assert {
            f"{name}@{k}" for name in ("recall", "ndcg", "hit_rate", "mrr", "coverage") for k in (5, 10)
        } == set(lists)
        assert all(0 <= value <= 1 for value in lists.values())
    assert 0 < figures["ranking"]["auc"] < 1 and figures["ranking"]["calibration"]
    interval = figures["intervals"]["ndcg@10_difference"]["item_knn"]
    assert interval["low"] <= interval["value"] <= interval["high"]
    assert figures["protocol"]["num_users"] > 0 and len(figures["segments"]) == 5


def test_a_model_that_is_not_better_stops_the_run_and_says_so(evaluation):
    output, passed, _ = evaluation
    assert passed is False
    with pytest.raises(GateError, match=r"against item_knn is .*must be better than item_knn"):
        enforce_gate(folder=output)


def test_the_same_inputs_give_the_same_bytes(evaluation, tmp_path):
    output, _, paths = evaluation
    evaluate_models(SETTINGS, **paths, output=tmp_path / "again")
    for name in ("evaluation.json", "gate.json"):
        assert (tmp_path / "again" / name).read_bytes() == (output / name).read_bytes()


def test_a_model_with_nan_weights_is_refused_and_leaves_nothing(evaluation, world, model, tmp_path):
    broken = load_model(model)
    with torch.no_grad():
        for parameter in broken.ranker.parameters():
            parameter.fill_(float("nan"))
    folder = tmp_path / "model"
    save_model(broken, folder)
    with pytest.raises(DataError, match="NaN"):
        evaluate_models(SETTINGS, **{**evaluation[2], "model": folder}, output=tmp_path / "evaluation")
    assert not (tmp_path / "evaluation").exists()


def test_the_model_never_answers_seen_items(world, model):
    protocol = load_protocol(world.features, world.training_set)
    answers = answer(load_model(model), protocol)
    for lists in (answers.chain, answers.retriever):
        for items, seen in zip(lists, protocol.requests["seen"], strict=True):
            shown = set(items.tolist()) - {0}
            assert shown and not shown & set(seen.tolist())


@pytest.mark.parametrize(
    ("chain", "ece", "expected"),
    [
        (0.12, 0.05, [True, True, True]),
        (0.10, 0.05, [True, False, True]),
        (0.09, 0.05, [True, False, True]),
        (0.07, 0.20, [False, False, False]),
        (float("nan"), float("nan"), [False, False, False]),
    ],
)
def test_the_gate_holds_each_baseline_and_the_calibration(chain, ece, expected):
    retrieval = {
        "chain": {"ndcg@10": chain},
        "popularity": {"ndcg@10": 0.08},
        "item_knn": {"ndcg@10": 0.10},
    }
    checks = decide(EvaluationSettings(), {"retrieval": retrieval, "ranking": {"ece": ece}})
    assert [check.passed for check in checks] == expected
