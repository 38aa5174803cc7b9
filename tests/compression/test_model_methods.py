"""The contract of a method on the model: smaller, served as before, and the same each time."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from leanrec.compression.methods import MODEL_METHODS
from leanrec.compression.recipes import change_model, write_compressed
from leanrec.compression.source import CompressionSource
from leanrec.config.fit import check_fit
from leanrec.config.recipes import Recipe
from leanrec.errors import CompressionError, ExportError
from leanrec.export.golden import answer_eagerly, read_golden
from leanrec.export.graph_file import graph_path, write_graph
from leanrec.export.graphs import export_graph
from leanrec.export.runtime import GraphSession
from leanrec.files import read_json, write_json
from leanrec.models.forms import FORMS
from leanrec.models.inputs import read_item_inputs
from leanrec.models.recommender import Recommender, load_model, save_model
from leanrec.schema import MODELS, RECOMMENDER

BRIEF = {"retriever_epochs": 1, "ranker_epochs": 1}
SMALL = {
    "distil": {
        "retriever_dim": 8,
        "ranker_dim": 8,
        "ranker_hidden": [8],
        "list_weight": 0.5,
        "feature_weight": 0.1,
    },
    "prune_dimensions": {"retriever_dim": 8, "ranker_dim": 8},
    "prune_neurons": {"share": 0.5},
    "prune_cross_layers": {"cross_layers": 1},
    "prune_heads": {"retriever_heads": 2, "ranker_heads": 1, "feature_weight": 0.1},
    "low_rank": {"cross_rank": 8, "deep_rank": 4},
    "share_items": {},
    "quantization_aware": {"table_bits": 4, "block": 8},
    "hash_tables": {"share": 0.5},
    "quotient_remainder_tables": {"remainders": 4},
    "robe_tables": {"share": 0.25, "chunk": 8},
    "tensor_train_tables": {"rank": 2},
}
"""Settings with which each method makes the tiny model smaller."""
ATTENTION = {"retriever": "sasrec", "ranker": "behaviour_sequence_transformer"}
OF_ATTENTION = ("prune_heads",)
"""Methods that want models with attention."""


@pytest.fixture(scope="module")
def source(tiny_export):
    return CompressionSource(**tiny_export._asdict())


@pytest.fixture(scope="module")
def with_attention(source):
    return attentive(source)


def attentive(source: CompressionSource) -> CompressionSource:
    """The same artifacts, untrained SASRec and Behaviour Sequence Transformer: two layers of four heads."""
    for part, model in ATTENTION.items():
        source = with_other_model(source, part, model, {"layers": 2, "heads": 4})
    torch.manual_seed(5)
    with torch.no_grad():
        for value in source.recommender.parameters():  # layers begin alike, and a user without a past at zero
            value.add_(torch.randn_like(value), alpha=0.1)
    source.recommender.freeze_items().eval()
    return source


@pytest.fixture
def suited(name, source, with_attention):
    """The models that the method `name` is for."""
    return with_attention if name in OF_ATTENTION else source


def recipe_of(*steps, name="tried") -> Recipe:
    return Recipe.parse({"name": name, "steps": list(steps)})


def fresh(source: CompressionSource) -> CompressionSource:
    """The same artifacts and model, nothing changed yet."""
    made = replace(source, changed={})
    made.__dict__["recommender"] = copy.deepcopy(source.recommender)
    return made


def served_numbers(model) -> int:
    """Numbers that the served graphs hold: weights that are looked up or multiplied, the items' included."""
    return sum(graph.numel() for graph in model.parameters()) + model.item_vectors.numel()


@pytest.mark.parametrize("name", MODEL_METHODS)
class TestEveryModelMethod:
    def test_the_model_is_smaller_and_the_same_each_time(self, name, suited):
        recipe = recipe_of({name: {**SMALL[name], **BRIEF}})
        first, second = (change_model(recipe, given) for given in (suited, fresh(suited)))
        if name == "quantization_aware":  # it prepares for a method on the graph
            assert served_numbers(first) == served_numbers(suited.recommender)
        else:
            assert served_numbers(first) < served_numbers(suited.recommender)
        for key, value in first.state_dict().items():
            assert torch.isfinite(value.float()).all(), key
            assert torch.equal(value, second.state_dict()[key]), key

    def test_it_answers_as_before_when_it_was_saved_and_loaded(self, name, suited, tmp_path):
        model = change_model(recipe_of({name: {**SMALL[name], **BRIEF}}), suited)
        save_model(model, tmp_path / "model")
        inputs = read_golden(suited.graphs).inputs[RECOMMENDER]
        answers, told = (
            answer_eagerly(each, RECOMMENDER, inputs) for each in (load_model(tmp_path / "model"), model)
        )
        np.testing.assert_array_equal(answers["score"], told["score"])


def test_every_method_is_tried_here():
    assert SMALL.keys() == MODEL_METHODS.keys()


NO_TRAINING = {"retriever_epochs": 0, "ranker_epochs": 0}
OF_ALL_KINDS = recipe_of(
    {"distil": {"ranker_dim": 12, "feature_weight": 0.1, **BRIEF}},
    {"prune_dimensions": {"retriever_dim": 8, **NO_TRAINING}},
    {"prune_neurons": {"share": 0.25, **BRIEF}},
    {"prune_cross_layers": {"cross_layers": 1, **NO_TRAINING}},
    {"low_rank": {"cross_rank": 12, **NO_TRAINING}},
    {"share_items": NO_TRAINING},
    {"hash_tables": {"tables": ["ranker.user"], **NO_TRAINING}},
    {"tensor_train_tables": {"tables": ["retriever.user"], "rank": 2, **NO_TRAINING}},
)
OTHER_TABLES = recipe_of(
    {"quotient_remainder_tables": {"tables": ["retriever.user", "retriever.history"], **NO_TRAINING}},
    {"robe_tables": {"tables": ["ranker.user"], **NO_TRAINING}},
)
"""Every form of tables and layers, in two models: exporting is slow."""


FEWER_HEADS = recipe_of({"prune_heads": {"retriever_heads": 1, "ranker_heads": 2, **NO_TRAINING}})


@pytest.fixture(params=[OF_ALL_KINDS, OTHER_TABLES, FEWER_HEADS], ids=lambda recipe: recipe.methods[-1])
def changed(request, source, with_attention):
    """A model in some of the forms."""
    return change_model(request.param, with_attention if request.param is FEWER_HEADS else source)


def test_every_form_is_tried_here(source, with_attention):
    models = [change_model(recipe, source) for recipe in (OF_ALL_KINDS, OTHER_TABLES)]
    models.append(change_model(FEWER_HEADS, with_attention))
    assert {sizes["form"] for model in models for sizes in model.forms.values()} == FORMS.keys()


def test_every_form_is_exported_as_it_answers(changed, source, tmp_path):
    golden = read_golden(source.graphs)
    path = tmp_path / "model.onnx"
    write_graph(export_graph(changed, RECOMMENDER), path)
    answers = GraphSession(path).run(golden.inputs[RECOMMENDER])
    told = answer_eagerly(changed, RECOMMENDER, golden.inputs[RECOMMENDER])
    assert answers["item_index"].shape == golden.outputs[RECOMMENDER]["item_index"].shape
    np.testing.assert_allclose(answers["score"], told["score"], atol=1e-5)


def test_methods_of_all_kinds_compose_and_replay_to_the_same_bytes(source, tmp_path):
    on_graphs = [{"int4_tables": {"block": 8}}, {"int8_static": {"num_requests": 32, "max_clipped": 0.2}}]
    recipe = recipe_of(*OF_ALL_KINDS.model_dump(mode="json")["steps"], *on_graphs)
    again = recipe_of(*recipe.model_dump(mode="json")["steps"], name="again")
    write_compressed(recipe, source, tmp_path / "first")
    write_compressed(again, fresh(source), tmp_path / "second")
    for model in MODELS:
        graphs = [graph_path(tmp_path / folder, model).read_bytes() for folder in ("first", "second")]
        assert graphs[0] == graphs[1]
        assert len(graphs[0]) < graph_path(source.graphs, model).stat().st_size


def test_recipes_that_begin_alike_share_the_work(source):
    shared = fresh(source)
    step = {"prune_dimensions": {"retriever_dim": 8, **BRIEF}}
    first = change_model(recipe_of(step, "int8_tables", name="a"), shared)
    assert change_model(recipe_of(step, "int4_tables", name="b"), shared) is first


def test_neurons_leave_the_parts_that_are_named_and_no_other(source):
    step = {"prune_neurons": {"share": 0.5, "parts": ["ranker"], **NO_TRAINING}}
    before, after = source.recommender, change_model(recipe_of(step), source)
    assert after.settings.ranker.hidden == tuple(width // 2 for width in before.settings.ranker.hidden)
    assert after.settings.retriever.hidden == before.settings.retriever.hidden
    torch.testing.assert_close(after.item_vectors, before.item_vectors)


def test_the_first_cross_layers_stay_as_they_are(source):
    step = {"prune_cross_layers": {"cross_layers": 1, **NO_TRAINING}}
    before, after = source.recommender, change_model(recipe_of(step), source)
    assert after.settings.ranker.cross_layers == 1
    (left,) = after.ranker.cross.layers
    torch.testing.assert_close(left.weight, before.ranker.cross.layers[0].weight)
    torch.testing.assert_close(after.ranker.over.weight, before.ranker.over.weight)
    torch.testing.assert_close(after.item_features, before.item_features)


def test_a_ranker_that_has_no_more_cross_layers_than_are_to_stay_keeps_them(source):
    step = {"prune_cross_layers": {"cross_layers": 2, **NO_TRAINING}}
    golden = read_golden(source.graphs)
    answers = answer_eagerly(change_model(recipe_of(step), source), RECOMMENDER, golden.inputs[RECOMMENDER])
    np.testing.assert_array_equal(answers["score"], golden.outputs[RECOMMENDER]["score"])


def test_sharing_between_the_rankers_halves_loses_nothing(source):
    recipe = recipe_of({"share_items": {"retriever": False, **NO_TRAINING}})
    golden = read_golden(source.graphs)
    answers = answer_eagerly(change_model(recipe, source), RECOMMENDER, golden.inputs[RECOMMENDER])
    np.testing.assert_allclose(answers["score"], golden.outputs[RECOMMENDER]["score"], atol=1e-6)


@pytest.mark.parametrize("buckets", [256, 472, 841])
def test_a_hash_leaves_few_rows_of_its_table_empty(source, buckets):
    """Two indices a bucket: 86 % of the buckets would be read if a die were thrown."""
    form = FORMS["hashed"](torch.nn.Embedding(2 * buckets, 4), source.recommender, buckets=buckets)
    read = form(torch.arange(2 * buckets)).unique(dim=0)
    assert len(read) > 0.8 * buckets


def test_full_rank_loses_nothing(source):
    """Every form that can hold the whole table or layer answers what the plain one does."""
    model = source.recommender
    layer = model.ranker.over
    whole = FORMS["low_rank"](layer, model, rank=3)
    whole.imitate(layer)
    values = torch.randn(5, layer.in_features)
    torch.testing.assert_close(whole(values), layer(values))
    table, index = model.retriever.sparse.tables["user"], torch.arange(31)[None]
    form = FORMS["tensor_train"](table, model, rank=64)
    form.imitate(table)
    torch.testing.assert_close(form(index), table(index), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ([{"prune_dimensions": {"retriever_dim": 99}}], "retriever_dim 99 is above the retriever's width 16"),
        (["prune_dimensions"], "nothing would become narrower"),
        ([{"prune_cross_layers": {"cross_layers": 3}}], "cross_layers 3 is above the 2 that the ranker has"),
        ([{"low_rank": {"cross_rank": 999}}], "rank 999 is above the width"),
        ([{"hash_tables": {"tables": ["ranker.films"]}}], "no table 'ranker.films'; known: retriever.user"),
        ([{"robe_tables": {"chunk": 5}}], "chunk 5 does not divide the tables' width 16"),
        ([{"tensor_train_tables": {"rank": 64}}], "would hold .* numbers instead of .*; ask for fewer"),
        ([{"low_rank": {"cross_rank": 4}}, "prune_neurons"], "has the form low_rank already.*prune before"),
        ([{"int8_static": {"num_requests": 5000}}], "270 requests are too few to calibrate on"),
        ([{"factorize_tables": {"rank": 500}}], "rank 500 is above the width"),
    ],
    ids=str,
)
def test_a_recipe_that_does_not_fit_the_model_says_so(source, tmp_path, steps, sentence):
    quick = [
        {name: {**s, **NO_TRAINING}} if name in MODEL_METHODS else {name: s}
        for step in steps
        for name, s in ({step: {}} if isinstance(step, str) else step).items()
    ]
    with pytest.raises(CompressionError, match=sentence):
        write_compressed(recipe_of(*quick), fresh(source), tmp_path / "out")


def with_other_model(
    source: CompressionSource, part: str, model: str, options: dict | None = None
) -> CompressionSource:
    """The same artifacts with an untrained model in the place of the trained one: another `part`."""
    before = source.recommender
    other = type(getattr(before.settings, part)).parse(
        {
            **getattr(before.settings, part).model_dump(),
            "model": model,
            **({model: options} if options else {}),
        }
    )
    settings = before.settings.model_copy(update={part: other})
    made = fresh(source)
    made.__dict__["recommender"] = Recommender(
        before.spec, settings, read_item_inputs(source.features / "items.parquet")
    )
    return made


@pytest.mark.parametrize(
    ("part", "model", "step", "sentence"),
    [
        ("retriever", "gru4rec", {"prune_neurons": {}}, "prune_neurons knows the inside of"),
        ("retriever", "gru4rec", {"prune_dimensions": {"retriever_dim": 8}}, "prune_dimensions knows the"),
        ("ranker", "din", {"prune_neurons": {}}, "prune_neurons knows the inside of"),
        ("ranker", "din", {"prune_dimensions": {"ranker_dim": 8}}, "prune_dimensions knows the inside of"),
        ("ranker", "din", {"prune_cross_layers": {}}, "prune_cross_layers knows the inside of"),
        ("ranker", "din", {"distil": {}}, "distil knows the inside of"),
        ("retriever", "gru4rec", {"prune_heads": {"retriever_heads": 1}}, "prune_heads knows the inside of"),
        ("ranker", "din", {"prune_heads": {"ranker_heads": 1}}, "prune_heads knows the inside of"),
        ("retriever", "gru4rec", {"prune_neurons": {"parts": ["ranker"]}}, None),
        ("retriever", "gru4rec", {"prune_cross_layers": {"cross_layers": 1}}, None),
        ("ranker", "din", {"prune_dimensions": {"retriever_dim": 8, "teacher_weight": 0}}, None),
    ],
    ids=str,
)
def test_a_method_refuses_architectures_that_it_does_not_know_and_so_do_the_settings(
    source, part, model, step, sentence
):
    ((name, own),) = step.items()
    other, recipe = with_other_model(source, part, model), recipe_of({name: {**own, **BRIEF}})
    if sentence is None:
        check_fit(recipe, other.recommender.settings)
        assert change_model(recipe, other) is not None
        return
    with pytest.raises(CompressionError, match=f"{sentence}.*'{model}'.*leave the method out of the recipe"):
        change_model(recipe, other)
    with pytest.raises(ValueError, match=f"recipe tried: {name} knows the inside of .*'{model}'"):
        check_fit(recipe, other.recommender.settings)


def test_a_form_that_nobody_knows_is_named(source, tmp_path):
    save_model(source.recommender, tmp_path)
    described = read_json(tmp_path / "model.json")
    write_json(tmp_path / "model.json", {**described, "forms": {"ranker.over": {"form": "origami"}}})
    with pytest.raises(ExportError, match="no form 'origami'; known: low_rank"):
        load_model(tmp_path)
