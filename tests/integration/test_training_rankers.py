"""Ranking models under real torchrun, two processes: each epoch proves that gathered scores are equal."""

from __future__ import annotations

import pytest
from training_world import SMALL, write_world

from leanrec.files import read_json
from leanrec.models.recommender import load_model
from leanrec.training.train import train_models

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("model", "task"),
    [("dlrm", "multi_task"), ("behaviour_sequence_transformer", "click"), ("din", "rating")],
)
def test_two_processes_train_a_ranker_whose_gathered_scores_are_equal(tmp_path, model, task):
    write_world(tmp_path)
    ranker = SMALL.ranker.model_copy(update={"model": model, "task": task, "epochs": 2})
    retriever = SMALL.retriever.model_copy(update={"epochs": 1})
    settings = SMALL.model_copy(update={"num_processes": 2, "ranker": ranker, "retriever": retriever})
    summary = train_models(
        settings,
        features=tmp_path / "features",
        training_set=tmp_path / "training_set.parquet",
        output=tmp_path / "model",
    )
    assert summary["num_processes"] == 2 and summary["valid_auc"] > 0.6
    assert [curve["epoch"] for curve in read_json(tmp_path / "model" / "curves.json")["ranker"]] == [1, 2]
    assert load_model(tmp_path / "model").settings.ranker.task == task
