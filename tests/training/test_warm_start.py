"""A warm start: old rows go on bit for bit, new ones start sensibly, another model is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_world import NUM_ITEMS, NUM_USERS, SMALL, write_world

from leanrec.config import RetrieverSettings, TrainingSettings
from leanrec.data.vocabulary import Vocabularies, Vocabulary
from leanrec.errors import ConfigError, TrainingError
from leanrec.files import read_json
from leanrec.models.inputs import ItemInputs, read_item_inputs
from leanrec.models.recommender import SPEC_FILE, Recommender, save_model
from leanrec.schema import ModelSpec
from leanrec.training.warm_start import SUMS_FILE, WEIGHTS_FOLDER, grow_rows, load_warm_start, save_sums

MORE = 3


def save_vocabulary(folder: Path, num_users: int, num_items: int, first: str = "") -> None:
    Vocabularies(
        users=Vocabulary().extended([f"{first}u{n}" for n in range(num_users)]),
        items=Vocabulary().extended([f"i{n}" for n in range(num_items)]),
    ).save(folder / "vocabulary")


@pytest.fixture
def world(tmp_path) -> tuple[Path, Path, Recommender]:
    """A release folder, the features folder of a grown catalogue, and the release's model."""
    features, _ = write_world(tmp_path)
    spec = ModelSpec(**{**read_json(features / "spec.json"), "top_k": SMALL.top_k})
    torch.manual_seed(1)
    old = Recommender(spec, SMALL, read_item_inputs(features / "items.parquet"))
    release = tmp_path / "release"
    save_model(old, release / "model")
    save_sums({"retriever": {"item": torch.ones(NUM_ITEMS, 8)}, "ranker": {}}, release / "model")
    save_vocabulary(release, NUM_USERS, NUM_ITEMS - 1)
    save_vocabulary(features, NUM_USERS + MORE, NUM_ITEMS - 1 + MORE)
    return release, features, old


def grown(old: Recommender, settings: TrainingSettings = SMALL, **changes) -> Recommender:
    """A fresh model for a catalogue with `MORE` new items and users."""
    spec = replace(old.spec, num_users=NUM_USERS + 1 + MORE, num_items=NUM_ITEMS + MORE, **changes)
    items = ItemInputs(
        category_indices=torch.ones(spec.num_items, 2, dtype=torch.long),
        release_year=torch.full((spec.num_items,), 2001.0),
        statistics=torch.ones(spec.num_items, 3),
    )
    return Recommender(spec, settings, items)


def test_old_rows_are_the_releases_bit_for_bit_and_new_ones_their_mean(world):
    release, features, old = world
    fresh = grown(old)
    warm = load_warm_start(release, fresh, features)
    fresh.load_state_dict(warm.weights)
    tables = [name for name in warm.weights if ".sparse.tables." in name]
    assert len(tables) == 9
    for name in tables:
        before, after = old.state_dict()[name], warm.weights[name]
        assert torch.equal(after[: len(before)], before), name
        assert torch.allclose(after[len(before) :], before[1:].mean(dim=0)), name
    dense = [name for name in warm.weights if ".sparse." not in name and "category_indices" not in name]
    dense = [name for name in dense if not name.endswith("item_dense")]
    assert dense and all(torch.equal(warm.weights[name], old.state_dict()[name]) for name in dense)


def test_the_item_table_is_the_new_one(world):
    release, features, old = world
    fresh = grown(old)
    warm = load_warm_start(release, fresh, features)
    assert warm.weights["retriever.category_indices"].shape == (NUM_ITEMS + MORE, 2)
    assert torch.equal(warm.weights["ranker.item_dense"], fresh.ranker.item_dense)


def test_known_rows_keep_their_sums_and_new_ones_learn_at_the_full_rate(world):
    release, features, old = world
    sums = load_warm_start(release, grown(old), features).sums
    assert torch.equal(sums["retriever"]["item"][:NUM_ITEMS], torch.ones(NUM_ITEMS, 8))
    assert torch.equal(sums["retriever"]["item"][NUM_ITEMS:], torch.zeros(MORE, 8))
    assert sums["ranker"] == {}
    (release / "model" / SUMS_FILE).unlink()
    assert load_warm_start(release, grown(old), features).sums == {"retriever": {}, "ranker": {}}


def test_a_table_with_the_unknown_row_alone_grows_by_it():
    row = torch.tensor([[1.0, 2.0]])
    assert grow_rows(row, 3).tolist() == [[1.0, 2.0]] * 3
    assert grow_rows(row, 1).tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(
    ("settings", "changes", "named"),
    [
        ({"retriever": {"dim": 16}}, {}, "training.retriever.dim is 16, .* trained with 8"),
        ({"ranker": {"hidden": (4,)}}, {}, r"training.ranker.hidden is \[4\]"),
        ({"retriever": {"model": "matrix_factorization"}}, {}, "training.retriever.model is matrix_fact"),
        ({"ranker": {"task": "click"}}, {}, "training.ranker.task is click, .* trained with multi_task"),
        ({"ranker": {"cross_layers": 1}}, {}, "training.ranker.cross_layers"),
        ({}, {"history_length": 9}, "features.history_length is 9"),
        ({}, {"liked_threshold": 3.0}, "features.liked_threshold"),
        ({}, {"attribute_cardinalities": {"age": 3}}, "data.user_attributes"),
    ],
)
def test_another_model_is_refused_with_the_way_out(world, settings, changes, named):
    release, features, old = world
    other = SMALL
    for part, values in settings.items():
        other = other.model_copy(update={part: getattr(other, part).model_copy(update=values)})
    with pytest.raises(ConfigError, match=named) as refused:
        load_warm_start(release, grown(old, other, **changes), features)
    assert "leanrec retrain --full" in str(refused.value)


def test_what_shapes_do_not_tell_apart_is_refused_too(world):
    release, features, old = world
    two, four = (
        RetrieverSettings.parse({"model": "sasrec", "dim": 8, "sasrec": {"heads": n}}) for n in (2, 4)
    )
    file = release / WEIGHTS_FOLDER / SPEC_FILE
    described = json.loads(file.read_text())
    described["settings"]["retriever"] = two.model_dump(mode="json")
    file.write_text(json.dumps(described))
    with pytest.raises(ConfigError, match=r"training\.retriever\.sasrec\.heads is 4, .* trained with 2"):
        load_warm_start(release, grown(old, SMALL.model_copy(update={"retriever": four})), features)


def test_a_release_without_weights_is_refused(world, tmp_path):
    _, features, old = world
    with pytest.raises(TrainingError, match=r"no weights to go on from .*--full"):
        load_warm_start(tmp_path / "older", grown(old), features)


def test_an_index_that_would_change_its_meaning_is_refused(world):
    release, features, old = world
    save_vocabulary(features, NUM_USERS, NUM_ITEMS, first="other-")
    with pytest.raises(TrainingError, match="the users vocabulary does not go on"):
        load_warm_start(release, grown(old), features)


def test_weights_of_a_shape_that_no_setting_explains_are_refused(world):
    release, features, old = world
    weights = load_file(release / "model" / "model.safetensors")
    weights["ranker.over.bias"] = torch.zeros(7)
    save_file(weights, release / "model" / "model.safetensors")
    with pytest.raises(ConfigError, match=r"ranker.over.bias is of shape \(7,\), the model's is \(3,\)"):
        load_warm_start(release, grown(old), features)
