"""Learned retrievers under real torchrun with two processes: every epoch proves the gathered scores equal."""

from __future__ import annotations

import pytest
from training_world import SMALL, write_world

from leanrec.config import TrainingSettings
from leanrec.files import read_json
from leanrec.models.recommender import load_model
from leanrec.training.train import train_models

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    "retriever",
    [
        {"model": "matrix_factorization", "loss": "bpr", "negatives": "popularity"},
        {"model": "light_gcn", "loss": "bpr"},
        {"model": "gru4rec", "negatives": "in_batch", "full_softmax_items": 0},
        {"model": "caser", "loss": "bce", "negatives": "hard", "num_negatives": 4},
        {"model": "sasrec", "loss": "gbce", "num_negatives": 8},
    ],
    ids=lambda values: values["model"],
)
def test_two_processes_train_a_retriever_whose_gathered_scores_are_equal(tmp_path, retriever):
    write_world(tmp_path)
    settings = SMALL.model_dump(mode="json")
    settings["num_processes"] = 2
    settings["ranker"]["epochs"] = 1
    settings["retriever"] |= {"epochs": 2, "softmax_negatives": 64, **retriever}
    summary = train_models(
        TrainingSettings.parse(settings),
        features=tmp_path / "features",
        training_set=tmp_path / "training_set.parquet",
        output=tmp_path / "model",
    )
    assert summary["num_processes"] == 2
    curve = read_json(tmp_path / "model" / "curves.json")["retriever"]
    assert [point["epoch"] for point in curve] == [1, 2]
    assert curve[1]["loss"] < curve[0]["loss"]
    assert load_model(tmp_path / "model").settings.retriever.loss == settings["retriever"]["loss"]
