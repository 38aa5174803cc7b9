"""prune_heads: which heads leave, and that nothing else does."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from test_model_methods import NO_TRAINING, attentive, fresh, recipe_of

from leanrec.compression.importance import head_importance
from leanrec.compression.recipes import change_model, write_compressed
from leanrec.compression.source import CompressionSource
from leanrec.errors import CompressionError, ConfigError, ExportError
from leanrec.export.golden import answer_eagerly, read_golden
from leanrec.export.graph_file import graph_path
from leanrec.export.graphs import export_graph
from leanrec.files import read_json, write_json
from leanrec.models.recommender import load_model, save_model
from leanrec.schema import MODELS
from leanrec.training.candidates import CandidateSampler
from leanrec.training.objectives import RankerObjective, RetrieverObjective

HEADS, WIDTH = 4, 4
LAYERS = {
    "retriever": {f"retriever.layers.layers.{i}.self_attn": "out_proj" for i in range(2)},
    "ranker": {f"ranker.layers.{i}": "out" for i in range(2)},
}
"""Part -> path of each attention -> the layer that its heads' outputs enter."""
FEWER = {"prune_heads": {"retriever_heads": 3, "ranker_heads": 2, **NO_TRAINING}}


@pytest.fixture(scope="module")
def source(tiny_export):
    return attentive(CompressionSource(**tiny_export._asdict()))


def columns(model, part, path):
    """The columns of `out` by head, [d, heads, w]: what the outputs of each are multiplied by."""
    attention = model.get_submodule(path)
    name = "out" if hasattr(attention, "out") else LAYERS[part][path]
    return attention.get_submodule(name).weight.unflatten(1, (-1, WIDTH))


def answers(model, source, name="recommender"):
    return answer_eagerly(model, name, read_golden(source.graphs).inputs[name])


def gone_from(after, before, part, path):
    """The heads whose columns are in `before` and no longer in `after`."""
    ours, theirs = (columns(model, part, path) for model in (after, before))
    kept = [
        any(torch.equal(theirs[:, head], ours[:, i]) for i in range(ours.shape[1])) for head in range(HEADS)
    ]
    assert sum(kept) == ours.shape[1]
    return [head for head in range(HEADS) if not kept[head]]


@pytest.mark.parametrize("name", MODELS)
def test_the_pruned_model_answers_as_the_whole_one_with_those_heads_outputs_at_zero(name, source):
    whole, pruned = copy.deepcopy(source.recommender), change_model(recipe_of(FEWER), source)
    before = answers(whole, source, name)["score"]
    for part, left in (("retriever", 3), ("ranker", 2)):
        for path in LAYERS[part]:
            gone = gone_from(pruned, whole, part, path)
            assert len(gone) == HEADS - left
            with torch.no_grad():
                columns(whole, part, path)[:, gone] = 0
    ours, theirs = (
        answers(pruned, source, name)["score"],
        answers(whole.freeze_items(), source, name)["score"],
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.abs(ours - before).max() > 1e-4


def loss_of(model, source, part):
    """The loss of the events of `source`, drawn as the importance of heads draws."""
    training, draw = model.settings, torch.Generator().manual_seed(model.settings.seed)
    batch = source.examples
    if part == "retriever":
        return RetrieverObjective(model.retriever, training.retriever)(batch, draw)
    sampler = CandidateSampler(model.retriever, training.ranker, model.num_candidates)
    return RankerObjective(model.ranker, training.ranker)(batch, sampler.draw(batch, draw))


@pytest.mark.parametrize("part", LAYERS)
@pytest.mark.parametrize("event", [40, 201])
def test_the_importance_of_a_head_is_the_slope_of_an_event_s_loss_as_its_gate_closes(part, event, source):
    one, step = fresh(source), 0.005
    one.__dict__["examples"] = source.examples.take(torch.tensor([event]))
    gated = copy.deepcopy(source.recommender)
    form = {"retriever": "fewer_heads", "ranker": "layer_of_fewer_heads"}[part]
    gated.take_forms({path: {"form": form, "heads": HEADS} for path in LAYERS[part]})
    told = head_importance(part, gated, one)
    assert told.keys() == LAYERS[part].keys()
    for path, importance in told.items():
        for head in range(HEADS):
            losses = []
            for gate in (1 + step, 1 - step):
                model = copy.deepcopy(source.recommender)
                with torch.no_grad():
                    columns(model, part, path)[:, head] *= gate
                    losses.append(float(loss_of(model, one, part)))
            slope = abs(losses[0] - losses[1]) / (2 * step)
            assert float(importance[head]) == pytest.approx(slope, rel=0.1, abs=1e-3), (path, head)
        assert importance.max() > 1e-3


def test_heads_that_do_nothing_leave_first_and_nothing_is_lost(source):
    idle, idlers = fresh(source), {"retriever": [2], "ranker": [0, 3]}
    with torch.no_grad():
        for part, heads in idlers.items():
            for path in LAYERS[part]:
                columns(idle.recommender, part, path)[:, heads] = 0
    pruned = change_model(recipe_of(FEWER), idle)
    for part, left in (("retriever", [0, 1, 3]), ("ranker", [1, 2])):
        for path in LAYERS[part]:
            ours, theirs = (columns(model, part, path) for model in (pruned, idle.recommender))
            assert torch.equal(ours, theirs[:, left])
    np.testing.assert_allclose(
        answers(pruned, source)["score"], answers(idle.recommender.freeze_items(), source)["score"], atol=1e-5
    )


def test_each_event_counts_by_itself_however_the_others_of_its_batch_pull(source):
    """Where training ends the mean loss has no slope; heads matter all the same."""
    (path, *_) = LAYERS["ranker"]
    several, gated = fresh(source), copy.deepcopy(source.recommender)
    gated.take_forms({path: {"form": "layer_of_fewer_heads", "heads": HEADS}})
    liked = (source.examples.liked == 1).nonzero().flatten()[:5]
    several.__dict__["examples"] = source.examples.take(liked)
    importance = head_importance("ranker", gated, several)[path]
    assert (importance > 0).all()
    gated.ranker.zero_grad()
    loss_of(gated, several, "ranker").backward()
    weight = gated.get_submodule(path).out.weight
    of_all = (weight * weight.grad).unflatten(1, (HEADS, WIDTH)).sum(dim=(0, 2)).abs()
    assert (importance >= of_all - 1e-6).all() and importance.sum() > 1.1 * of_all.sum()


def numbers(graph):
    """Floats among the constants."""
    return sum(len(tensor.raw_data) // 4 for tensor in graph.graph.initializer if tensor.data_type == 1)


def test_served_bytes_fall_by_the_rows_and_columns_and_a_replay_gives_the_same_ones(source, tmp_path):
    for folder, given in (("first", source), ("second", fresh(source))):
        write_compressed(recipe_of(FEWER), given, tmp_path / folder)
    gone = 2 * (1 + 2) * (4 * 16 * WIDTH + 3 * WIDTH)  # layers, heads that went, matrices and biases of each
    for model in MODELS:
        first, second = (graph_path(tmp_path / folder, model).read_bytes() for folder in ("first", "second"))
        assert first == second
        whole = export_graph(source.recommender, model)
        assert numbers(whole) - numbers(onnx.load_from_string(first)) == gone
        assert len(first) <= whole.ByteSize() - 4 * gone


def test_the_trained_model_teaches_the_one_without_some_heads(source):
    learnt = [
        change_model(
            recipe_of({"prune_heads": {"retriever_heads": 2, "ranker_heads": 2, "teacher_weight": weight}}),
            fresh(source),
        )
        for weight in (0.0, 1.0)
    ]
    told = answers(source.recommender, source, "ranker")["score"]
    alone, taught = (np.abs(answers(model, source, "ranker")["score"] - told).mean() for model in learnt)
    assert taught < alone


def test_the_part_that_is_not_named_keeps_its_heads(source):
    pruned = change_model(recipe_of({"prune_heads": {"ranker_heads": 1, **NO_TRAINING}}), source)
    assert pruned.forms.keys() == LAYERS["ranker"].keys()
    torch.testing.assert_close(pruned.item_vectors, source.recommender.item_vectors)
    assert pruned.retriever.state_dict().keys() == source.recommender.retriever.state_dict().keys()


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        (
            [{"prune_heads": {"retriever_heads": 5}}],
            "retriever_heads 5 is above the 4 that the retriever has",
        ),
        ([{"prune_heads": {"ranker_heads": 4, "retriever_heads": 4}}], "no head would go; give a smaller"),
        (
            [FEWER, {"prune_dimensions": {"retriever_dim": 8}}],
            "prune_dimensions knows the inside of two_tower",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_cut_is_refused(source, steps, sentence):
    quick = [{name: {**own, **NO_TRAINING} for name, own in step.items()} for step in steps]
    with pytest.raises(CompressionError, match=sentence):
        change_model(recipe_of(*quick), source)


def test_no_head_at_all_is_no_setting():
    with pytest.raises(ConfigError, match=r"retriever_heads.*greater than or equal to 1"):
        recipe_of({"prune_heads": {"retriever_heads": 0}})


@pytest.mark.parametrize("heads", [0, 5])
def test_a_saved_model_that_claims_more_heads_than_it_was_trained_with_is_refused(source, heads, tmp_path):
    save_model(change_model(recipe_of(FEWER), source), tmp_path)
    described = read_json(tmp_path / "model.json")
    path = next(iter(LAYERS["ranker"]))
    described["forms"][path]["heads"] = heads
    write_json(tmp_path / "model.json", described)
    with pytest.raises(ExportError, match=f"not a model's description .{heads} heads cannot stay of 4"):
        load_model(tmp_path)
