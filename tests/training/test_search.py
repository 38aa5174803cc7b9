"""The search for hyper-parameters: what it may try, the study it keeps, and its manifest for Katib."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from training_world import SMALL, write_world

from leanrec.config import RetrieverSettings, SearchSettings, TrainingSettings
from leanrec.config.search import SearchSpace
from leanrec.config.zoo import RETRIEVERS
from leanrec.errors import ConfigError, TrainingError
from leanrec.files import read_json
from leanrec.models.recommender import load_model
from leanrec.training.katib import katib_experiment
from leanrec.training.search import is_whole, parameters_of, search_settings, value_of, with_parameters

SASREC = TrainingSettings.parse({"retriever": {"model": "sasrec", "dim": 24}})
QUICK = TrainingSettings.parse(
    {
        **SMALL.model_dump(mode="json"),
        "retriever": {**SMALL.retriever.model_dump(mode="json"), "epochs": 1},
        "ranker": {**SMALL.ranker.model_dump(mode="json"), "epochs": 1},
    }
)


def search_over(parameters: dict, **others: object) -> SearchSettings:
    return SearchSettings.parse({"parameters": parameters, **others})


def test_a_search_goes_on_keeps_the_best_and_outlives_a_failed_trial(tmp_path: Path):
    features, training_set = write_world(tmp_path)
    given = {"features": features, "training_set": training_set, "output": tmp_path / "search"}
    # Of a loss that is not a number in the one case: a learning rate without bounds.
    dims = {"retriever.dim": {"values": [8, 4]}, "ranker.learning_rate": {"values": [0.01, 1e30]}}
    first = search_settings(search_over(dims, trials=1), QUICK, **given)
    assert first["best"]["parameters"] == {"retriever.dim": 8, "ranker.learning_rate": 0.01}
    assert first["as_it_was"] == first["best"]["valid_ndcg"]

    report = search_settings(search_over(dims, trials=4), QUICK, **given)
    assert len(report["tried"]) == 4
    assert report["tried"][0] == first["tried"][0]
    for row in report["tried"]:
        assert (row["valid_ndcg"] is None) == (row["parameters"]["ranker.learning_rate"] == 1e30)
        assert (row["valid_ndcg"] is None) == ("learning_rate" in row.get("failure", ""))
    best = report["best"]
    assert best["valid_ndcg"] == max(row["valid_ndcg"] or 0 for row in report["tried"])
    dim = best["parameters"]["retriever.dim"]
    assert load_model(tmp_path / "search" / "model").settings.retriever.dim == dim
    section = yaml.safe_load((tmp_path / "search" / "best.yaml").read_text())["training"]
    assert section["retriever"] == {"dim": dim}
    assert read_json(tmp_path / "search" / "search.json") == report
    assert not list((tmp_path / "search").glob("trial-*"))


def test_when_every_trial_fails_the_reason_is_told(tmp_path: Path):
    with pytest.raises(TrainingError, match=r"every trial failed, the last one so: .*no-such-file"):
        search_settings(
            search_over({"retriever.dim": {"values": [8]}}, trials=1),
            QUICK,
            features=write_world(tmp_path)[0],
            training_set=tmp_path / "no-such-file",
            output=tmp_path / "search",
        )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"retriever.dmi": {"values": [8]}}, "there is no setting training.retriever.dmi"),
        ({"dim": {"values": [8]}}, "there is no setting training.dim"),
        ({"retriever.dim": {"values": [2]}}, r"retriever.dim 2: setting 'retriever.dim'"),
        ({"retriever.dim": {"low": 1, "high": 16, "whole": True}}, "retriever.dim 1"),
        ({"retriever.dropout": {"low": 0.1, "high": 1.5}}, "retriever.dropout 1.5"),
    ],
)
def test_a_parameter_that_cannot_be_is_refused_before_anything_starts(
    tmp_path: Path, parameters: dict, message: str
):
    with pytest.raises(ConfigError, match=message):
        search_settings(
            search_over(parameters),
            QUICK,
            features=tmp_path,
            training_set=tmp_path,
            output=tmp_path / "search",
        )
    assert not (tmp_path / "search").exists()


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "give `low` and `high`, or `values`"),
        ({"low": 1}, "give `low` and `high`, or `values`"),
        ({"low": 1, "high": 2, "values": [1]}, "not both"),
        ({"low": 2, "high": 1}, "low 2 is not below high 1"),
        ({"low": 0, "high": 1, "log": True}, "a logarithm needs a low above 0"),
    ],
)
def test_a_space_that_is_none_is_refused(space: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        search_over({"retriever.dim": space})


def test_katib_is_asked_for_the_same_search():
    settings = search_over(
        {
            "retriever.learning_rate": {"low": 0.0003, "high": 0.01, "log": True},
            "retriever.dim": {"values": [32, 64]},
            "ranker.epochs": {"low": 1, "high": 5},
        },
        trials=12,
        parallel=3,
        figure="valid_rmse",
    )
    experiment = katib_experiment(
        settings,
        TrainingSettings(),
        name="films-search",
        namespace="leanrec",
        image="leanrec/pipeline@sha256:0",
        volume="leanrec-workspace",
        configuration="release-configuration",
        work=Path("/workspace/by-hand"),
    )
    spec = experiment["spec"]
    assert spec["objective"] == {"type": "minimize", "objectiveMetricName": "valid_rmse"}
    assert (spec["maxTrialCount"], spec["parallelTrialCount"]) == (12, 3)
    rate, dim, epochs = spec["parameters"]
    assert rate["feasibleSpace"] == {"min": "0.0003", "max": "0.01", "distribution": "logUniform"}
    assert dim == {"name": "p1", "parameterType": "categorical", "feasibleSpace": {"list": ["32", "64"]}}
    assert epochs["parameterType"] == "int"
    (container,) = spec["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]["containers"]
    assert container["name"] == spec["trialTemplate"]["primaryContainerName"]
    told = container["command"]
    assert told[:3] == ["leanrec", "search", "trial"]
    # Each parameter reaches the command line, under the name that Katib fills in.
    assert [word for word in told if "=" in word] == [
        "retriever.learning_rate=${trialParameters.p0}",
        "retriever.dim=${trialParameters.p1}",
        "ranker.epochs=${trialParameters.p2}",
    ]
    assert [each["reference"] for each in spec["trialTemplate"]["trialParameters"]] == ["p0", "p1", "p2"]


def test_values_go_where_their_names_say():
    changed = with_parameters(TrainingSettings(), {"retriever.dim": 32, "top_k": 50})
    assert (changed.retriever.dim, changed.top_k) == (32, 50)
    assert changed.ranker == TrainingSettings().ranker


def test_a_model_that_is_tried_has_its_own_defaults_and_what_was_set_stays():
    was_set = TrainingSettings.parse({"retriever": {"model": "sasrec", "dim": 32}})
    for training in (TrainingSettings(), was_set):
        for model in ("gru4rec", "two_tower"):
            tried = with_parameters(training, {"retriever.model": model}).retriever
            dim = {"dim": 32} if training is was_set else {}
            assert tried == RetrieverSettings.parse({"model": model, **dim})


def test_what_another_model_reads_does_not_go_into_a_trial():
    both = {"retriever.model": "gru4rec", "retriever.sasrec.layers": 3, "retriever.gru4rec.layers": 2}
    was_set = TrainingSettings.parse({"retriever": {"model": "two_tower", "hidden": [64]}})
    tried = with_parameters(was_set, both).retriever
    assert tried == RetrieverSettings.parse({"model": "gru4rec", "gru4rec": {"layers": 2}})


def test_a_parameter_must_suit_the_models_that_read_it_and_one_must() -> None:
    models = {"retriever.model": {"values": ["gru4rec", "sasrec"]}}

    def searched(**parameters: dict) -> list[str]:
        named = {f"retriever.{name}": space for name, space in parameters.items()}
        return list(parameters_of(search_over(models | named), SASREC))

    assert searched(**{"sasrec.layers": {"low": 1, "high": 3}}) == [
        "retriever.model",
        "retriever.sasrec.layers",
    ]
    with pytest.raises(ConfigError, match=r"sasrec\.layers"):
        searched(**{"sasrec.layers": {"values": [0]}})
    with pytest.raises(ConfigError, match=r"no model tried reads training\.retriever\.caser\.length"):
        searched(**{"caser.length": {"values": [9]}})
    with pytest.raises(ConfigError, match=r"no setting training\.retriever\.sasrec\.layrs"):
        with_parameters(TrainingSettings(), {"retriever.model": "gru4rec", "retriever.sasrec.layrs": 3})


@pytest.mark.parametrize("model", RETRIEVERS)
def test_by_default_what_is_searched_is_what_the_model_reads(model: str) -> None:
    training = TrainingSettings.parse({"retriever": {"model": model}})
    found = parameters_of(SearchSettings(), training)
    assert {"ranker.learning_rate", "ranker.table_learning_rate"} <= found.keys()
    assert ("retriever.learning_rate" in found) == (model in RETRIEVERS[: RETRIEVERS.index("popularity")])
    with_parameters(training, {name: value_of(training, name) for name in found}).refuse_unread()


def test_what_is_reported_is_what_the_models_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(settings: TrainingSettings, output: Path, **_: object) -> dict:
        output.mkdir()
        return {"valid_ndcg": 0.9 if settings.retriever.model == "caser" else 0.1}

    monkeypatch.setattr("leanrec.training.search.train_models", train)
    models = {"retriever.model": {"values": ["gru4rec", "caser"]}}
    # Neither the model nor the width that is configured is among the values; the first trial has them.
    others = {"retriever.dim": {"values": [8, 16]}, "retriever.sasrec.layers": {"values": [3, 4]}}
    report = search_settings(
        search_over(models | others, trials=6),
        SASREC,
        features=tmp_path,
        training_set=tmp_path,
        output=tmp_path / "search",
    )
    first, *_ = (row["parameters"] for row in report["tried"])
    assert first == {"retriever.model": "sasrec", "retriever.dim": 24, "retriever.sasrec.layers": 2}
    assert report["best"]["parameters"].keys() == {"retriever.model", "retriever.dim"}
    best = yaml.safe_load((tmp_path / "search" / "best.yaml").read_text())["training"]
    assert best["retriever"].keys() == {"model", "dim"} and best["retriever"]["model"] == "caser"


def test_a_trial_whose_values_do_not_go_together_fails_and_the_search_goes_on(tmp_path: Path, monkeypatch):
    learnt = []

    def train(settings: TrainingSettings, output: Path, **_: object) -> dict:
        learnt.append(settings.retriever.dim)
        output.mkdir()
        return {"valid_ndcg": 0.5}

    monkeypatch.setattr("leanrec.training.search.train_models", train)
    sasrec = TrainingSettings.parse({"retriever": {"model": "sasrec", "dim": 8}})
    report = search_settings(
        search_over({"retriever.dim": {"low": 8, "high": 12}}, trials=8),
        sasrec,
        features=tmp_path,
        training_set=tmp_path,
        output=tmp_path / "search",
    )
    failures = [row["failure"] for row in report["tried"] if "failure" in row]
    assert failures and all("cannot be shared out to sasrec.heads 2" in failure for failure in failures)
    assert len(learnt) + len(failures) == 8 and not any(dim % 2 for dim in learnt)


@pytest.mark.parametrize(
    ("name", "space", "whole"),
    [
        ("ranker.epochs", {"low": 1, "high": 5}, True),
        ("ranker.dropout", {"low": 0, "high": 0.5}, False),
        ("ranker.dropout", {"low": 0, "high": 0.5, "whole": True}, True),
    ],
)
def test_a_setting_that_is_a_whole_number_is_searched_in_whole_numbers(name: str, space: dict, whole: bool):
    assert is_whole(TrainingSettings(), name, SearchSpace.parse(space)) is whole
