"""The contract of the served modules: shapes, masks, unknown indices, saving and exporting."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest
import torch

from leanrec.config import RankerSettings, RetrieverSettings, TrainingSettings
from leanrec.errors import ExportError
from leanrec.models.inputs import ItemInputs, UserInputs, known_index, known_indices
from leanrec.models.recommender import Recommender, load_model, save_model
from leanrec.schema import RANKER, RECOMMENDER, ModelSpec

NUM_ITEMS = 40
SPEC = ModelSpec(
    num_users=12,
    num_items=NUM_ITEMS,
    num_categories=5,
    attribute_cardinalities={"gender": 3, "occupation": 7},
    history_length=6,
    top_k=10,
    liked_threshold=4.0,
)
SETTINGS = TrainingSettings(
    num_candidates=20,
    top_k=10,
    retriever=RetrieverSettings(dim=8, hidden=(16,)),
    ranker=RankerSettings(dim=8, hidden=(16, 8)),
)


def make_items(num_items: int = NUM_ITEMS) -> ItemInputs:
    draw = torch.Generator().manual_seed(7)
    categories = torch.randint(0, 5, (num_items, 3), generator=draw)
    year = torch.randint(1950, 1999, (num_items,), generator=draw).float()
    statistics = torch.rand(num_items, 3, generator=draw) * 50
    return ItemInputs(categories, year, statistics)


def make_recommender(settings: TrainingSettings = SETTINGS) -> Recommender:
    torch.manual_seed(3)
    return Recommender(SPEC, settings, make_items()).freeze_items().eval()


def make_users(num_users: int, seed: int = 1) -> UserInputs:
    draw = torch.Generator().manual_seed(seed)
    history = torch.randint(1, NUM_ITEMS, (num_users, 6), generator=draw)
    length = torch.randint(0, 7, (num_users, 1), generator=draw)
    history = history * (torch.arange(6) < length)
    return UserInputs(
        torch.randint(0, 12, (num_users, 1), generator=draw),
        torch.randint(0, 3, (num_users, 2), generator=draw),
        torch.rand(num_users, 3, generator=draw) * 5,
        history,
        torch.randint(1, 6, (num_users, 6), generator=draw).float() * (history > 0),
    )


@torch.no_grad()
def test_recommender_answers_the_best_k_in_order_without_seen_items():
    model, users = make_recommender(), make_users(4)
    seen = torch.randint(1, NUM_ITEMS, (4, 9), generator=torch.Generator().manual_seed(5))
    item_index, score = model(*users, seen)
    assert item_index.shape == score.shape == (4, 10)
    assert item_index.dtype == torch.int64 and score.dtype == torch.float32
    for row, hidden, scores in zip(item_index.tolist(), seen.tolist(), score, strict=True):
        assert not set(row) & {0, *hidden}
        assert len(set(row)) == 10
        assert (scores.diff() <= 0).all() and (scores > 0).all() and (scores < 1).all()


@torch.no_grad()
def test_recommender_and_ranker_give_an_item_the_same_score():
    model, users = make_recommender(), make_users(5)
    item_index, score = model(*users, torch.zeros(5, 1, dtype=torch.long))
    again, like, rating = model.served_ranker()(*users, item_index)
    assert torch.allclose(score, again, atol=1e-6)
    assert ((like > 0) & (like < 1)).all() and torch.isfinite(rating).all()


@torch.no_grad()
def test_a_user_who_has_seen_nearly_everything_gets_what_is_left_and_then_index_zero():
    model, users = make_recommender(), make_users(1)
    item_index, score = model(*users, torch.arange(1, NUM_ITEMS - 3).unsqueeze(0))
    assert set(item_index[0, :3].tolist()) == {NUM_ITEMS - 3, NUM_ITEMS - 2, NUM_ITEMS - 1}
    assert item_index[0, 3:].tolist() == [0] * 7 and score[0, 3:].tolist() == [0.0] * 7


def test_columns_are_checked_together_as_each_is_by_itself():
    cardinalities = {"user": 5, "group": 3, "history": 4, "flag": 2}
    indices = {
        "user": torch.tensor([[-1], [4], [5]]),
        "group": torch.tensor([[2], [3], [4]]),
        "history": torch.tensor([[0, 3], [4, 9], [1, -7]]),
        "flag": torch.tensor([[1], [2], [0], [7]]),
    }
    known = known_indices(indices, cardinalities)
    assert known.keys() == indices.keys()
    for name, index in indices.items():
        assert torch.equal(known[name], known_index(index, cardinalities[name])), name


@torch.no_grad()
def test_indices_outside_the_tables_count_as_unknown():
    model, users = make_recommender(), make_users(2)
    zero = torch.zeros_like(users.user_index)
    strange = users._replace(user_index=zero + 999, user_attributes=users.user_attributes * 0 - 5)
    unknown = users._replace(user_index=zero, user_attributes=users.user_attributes * 0)
    seen = torch.tensor([[1, 2], [3, 4]])
    assert torch.equal(model(*strange, seen * 0 + 5000)[1], model(*unknown, seen * 0)[1])
    ranker = model.served_ranker()
    assert torch.equal(ranker(*unknown, seen * 0 - 3)[0], ranker(*unknown, seen * 0)[0])


@torch.no_grad()
def test_a_batch_of_one_answers_as_a_batch_of_many():
    model, users = make_recommender(), make_users(6)
    seen = torch.randint(0, NUM_ITEMS, (6, 4), generator=torch.Generator().manual_seed(5))
    item_index, score = model(*users, seen)
    for i in range(6):
        alone, alone_score = model(*(tensor[i : i + 1] for tensor in users), seen[i : i + 1])
        assert torch.equal(alone[0], item_index[i])
        assert torch.allclose(alone_score[0], score[i], atol=1e-6)


def test_counts_are_clipped_to_the_catalogue():
    model = make_recommender(SETTINGS.model_copy(update={"num_candidates": 500, "top_k": 300}))
    assert model.num_candidates == model.top_k == model.spec.top_k == NUM_ITEMS - 1


@torch.no_grad()
def test_a_saved_model_answers_the_same_after_loading(tmp_path):
    model, users = make_recommender(), make_users(3)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    seen = torch.zeros(3, 1, dtype=torch.long)
    assert not loaded.training and loaded.spec == model.spec
    for before, after in zip(model(*users, seen), loaded(*users, seen), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign"])
def test_a_damaged_model_folder_is_named_in_one_sentence(tmp_path, name, damage):
    save_model(make_recommender(), tmp_path)
    file = tmp_path / name
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        file.write_bytes(json.dumps({"spec": {}}).encode())
    with pytest.raises(ExportError, match=name):
        load_model(tmp_path)


@pytest.mark.parametrize("name", [RECOMMENDER, RANKER])
def test_the_export_has_no_loop_and_answers_the_same_at_other_sizes(tmp_path, name):
    model = make_recommender()
    module = model if name == RECOMMENDER else model.served_ranker()
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    names = [tensor.name for tensor in SPEC.inputs(name)]
    shapes = {each: {0: batch} for each in names} | {names[-1]: {0: batch, 1: length}}
    program = torch.onnx.export(
        module,
        (*make_users(3), torch.ones(3, 5, dtype=torch.long)),
        dynamo=True,
        dynamic_shapes=tuple(shapes.values()),
        input_names=names,
        output_names=[tensor.name for tensor in SPEC.outputs(name)],
        verbose=False,
    )
    assert not {"Loop", "Scan", "If"} & {node.op_type for node in program.model_proto.graph.node}
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for num_users, num_last in ((1, 1), (7, 13)):
        last = torch.randint(0, NUM_ITEMS, (num_users, num_last), generator=torch.Generator().manual_seed(2))
        values = (*make_users(num_users, seed=num_users), last)
        with torch.no_grad():
            expected = module(*values)
        answers = session.run(None, {n: v.numpy() for n, v in zip(names, values, strict=True)})
        for ours, theirs in zip(expected, answers, strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-5)
