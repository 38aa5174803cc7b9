"""A warm start beside a full training: which goes on, what is told of both, and what is left of the other."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_world import NUM_ITEMS, NUM_USERS, SMALL, write_world

from leanrec.config import TrainingSettings
from leanrec.data.vocabulary import Vocabularies, Vocabulary
from leanrec.files import read_json
from leanrec.models.recommender import load_model
from leanrec.release import starts
from leanrec.release.starts import STARTS_FILE, train_from_starts

pytestmark = pytest.mark.integration

SETTINGS = SMALL.model_copy(update={"warm_epochs": 1})


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[dict[str, Path], Path]:
    """Features and training set, and a release that was trained on them."""
    folder = tmp_path_factory.mktemp("starts")
    features, training_set = write_world(folder)
    release = folder / "release"
    inputs = {"features": features, "training_set": training_set}
    nothing = {"warm_start": None, "compare_with_full": True}
    summary = train_from_starts(SETTINGS, **inputs, output=release / "model", **nothing)
    assert "start" not in summary and not (release / "model" / STARTS_FILE).exists(), "nothing to compare"
    vocabularies = Vocabularies(
        users=Vocabulary().extended([f"u{n}" for n in range(NUM_USERS)]),
        items=Vocabulary().extended([f"i{n}" for n in range(NUM_ITEMS - 1)]),
    )
    for place in (release, features):
        vocabularies.save(place / "vocabulary")
    return inputs, release


def train(world, output: Path, settings: TrainingSettings = SETTINGS) -> tuple[dict, dict]:
    inputs, release = world
    summary = train_from_starts(settings, **inputs, output=output, warm_start=release, compare_with_full=True)
    return summary, read_json(output / STARTS_FILE)


def test_both_are_trained_on_the_same_events_and_told_side_by_side(world, tmp_path):
    settings = SETTINGS.model_copy(update={"checkpoint": str(tmp_path / "checkpoints")})
    summary, found = train(world, tmp_path / "model", settings)
    assert found["starts"]["warm"]["epochs"] == {"retriever": 1, "ranker": 1}
    assert found["starts"]["full"]["epochs"] == {"retriever": 3, "ranker": 4}
    for figures in found["starts"].values():
        assert figures["seconds"] > 0
        for split in ("valid", "test"):
            assert figures[split]["num_users"] > 0 and figures[split]["log_loss"] > 0
            assert figures[split]["ndcg@10"]["low"] <= figures[split]["ndcg@10"]["value"]
            assert 0.5 < figures[split]["auc"]["value"] <= 1
    for split, differences in found["full_less_warm"].items():
        for name, gap in differences.items():
            full, warm = (found["starts"][start][split][name]["value"] for start in ("full", "warm"))
            assert gap["value"] == pytest.approx(full - warm)
    assert summary["start"] == found["chosen"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "nothing is left of the other"


def test_where_the_full_model_is_chosen_the_folder_holds_it(world, tmp_path, monkeypatch):
    monkeypatch.setattr(starts, "choose_start", lambda gap: ("full", "as this test says"))
    summary, found = train(world, tmp_path / "model")
    curves = read_json(tmp_path / "model" / "curves.json")
    assert {model: len(each) for model, each in curves.items()} == found["starts"]["full"]["epochs"]
    assert summary["start"] == "full" and not summary["warm_start"]
    assert load_model(tmp_path / "model").spec.num_items == NUM_ITEMS
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
