"""Fitted retrievers in the whole training step: every process has them, the ranker starts from them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_world import SMALL, write_world

from leanrec.config import TrainingSettings
from leanrec.errors import ConfigError, TrainingError
from leanrec.files import read_json
from leanrec.models.inputs import blank_items
from leanrec.models.recommender import load_model
from leanrec.models.retrieval import RETRIEVERS
from leanrec.schema import ModelSpec
from leanrec.training.train import train_models


def settings_of(model: str) -> TrainingSettings:
    described = SMALL.model_dump(mode="json")
    described["retriever"]["model"] = model
    described["ranker"]["epochs"] = 1
    described["num_processes"] = 2
    return TrainingSettings.parse(described)


def test_two_processes_train_a_ranker_on_a_fitted_retriever(tmp_path: Path):
    features, training_set = write_world(tmp_path)
    summary = train_models(
        settings_of("ease"), features=features, training_set=training_set, output=tmp_path / "model"
    )
    assert summary["valid_ndcg"] > 0.4
    (curve,) = read_json(tmp_path / "model" / "curves.json")["retriever"]
    assert curve["ndcg"] > 0.5
    model = load_model(tmp_path / "model")
    assert torch.isfinite(model.item_vectors).all()
    assert model.item_vectors.abs().sum() > 0


def test_words_that_are_not_there_are_named(tmp_path: Path):
    features, training_set = write_world(tmp_path)
    with pytest.raises(TrainingError, match="no item has a title or a category"):
        train_models(
            settings_of("content_based"),
            features=features,
            training_set=training_set,
            output=tmp_path / "model",
        )


def test_a_catalogue_that_does_not_fit_is_refused_with_the_bytes():
    spec = ModelSpec(
        num_users=10,
        num_items=50_000,
        num_categories=2,
        attribute_cardinalities={},
        history_length=4,
        liked_threshold=4.0,
        top_k=10,
    )
    with pytest.raises(ConfigError, match=r"'ease' would hold 50,000 x 50,000 numbers, 10.0 GB"):
        RETRIEVERS["ease"](spec, settings_of("ease").retriever, blank_items(50_000, 1))
