"""The plan: its arithmetic held against graphs that were really exported and compressed."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from small_graph import table_graph
from typer.testing import CliRunner

from leanrec.cli import app
from leanrec.cli.compression import size_of
from leanrec.compression import shapes
from leanrec.compression.footprint import FOOTPRINTS, Weight
from leanrec.compression.method import TABLES
from leanrec.compression.methods import GRAPH_METHODS, MODEL_METHODS
from leanrec.compression.methods.factorize_tables import saves
from leanrec.compression.plan import NAMES, NODES, RUNTIME, plan, weigh_release, weigh_tables
from leanrec.compression.recipes import RECIPES, cook
from leanrec.compression.resident import resident_bytes
from leanrec.config import RankerSettings, Recipe, RetrieverSettings, TrainingSettings
from leanrec.config.fit import reshaped
from leanrec.config.methods import MODEL, MixedTables
from leanrec.errors import CompressionError, ConfigError
from leanrec.export.graph_file import write_graph
from leanrec.export.graphs import export_graph
from leanrec.models.inputs import ItemInputs
from leanrec.models.recommender import Recommender
from leanrec.schema import MODELS, ModelSpec

SETTINGS = TrainingSettings(
    num_candidates=30,
    top_k=12,
    retriever=RetrieverSettings(dim=32, hidden=(96, 40)),
    ranker=RankerSettings(dim=16, hidden=(48, 24), cross_layers=3),
)
SPEC = ModelSpec(
    num_users=4000,
    num_items=3000,
    num_categories=20,
    attribute_cardinalities={"age": 90, "city": 700},
    history_length=10,
    top_k=12,
    liked_threshold=4.0,
)
PLANNED = [
    [],
    ["fp16"],
    ["bf16"],
    ["int8_tables"],
    ["int8_tables", "int8_mlp"],
    ["int8_tables", "int8_dense"],
    [{"int8_tables": {"block": 8}}],
    [{"int8_tables": {"symmetric": False}}],
    [{"int8_tables": {"block": 5, "symmetric": False}}],
    ["int4_tables"],
    [{"int4_tables": {"block": 8}}, {"int4_dense": {"block": 16}}],
    ["int4_tables", "int8_mlp"],
    ["product_quantized_tables", "int8_mlp"],
    [{"product_quantized_tables": {"bits": 2.5}}, "int8_dense"],
    [{"factorize_tables": {"rank": 6}}],
]
CHANGED = {
    "layers": [
        {"prune_neurons": {"share": 0.5}},
        "quantization_aware",
        {"low_rank": {"cross_rank": 8, "deep_rank": 8}},
        "int8_tables",
        "int8_dense",
    ],
    "shared items": ["share_items", "int8_tables", "int8_mlp"],
    "every form of a table": [
        {"hash_tables": {"tables": ["retriever.user"]}},
        {"quotient_remainder_tables": {"tables": ["ranker.user"]}},
        {"robe_tables": {"tables": ["retriever.history"]}},
        {"tensor_train_tables": {"tables": ["retriever.attribute_1"], "rank": 4}},
        {"share_items": {"retriever": False}},
    ],
}
"""Recipes whose methods on the model decide sizes; a few with much in each, for exporting is slow."""
INT8 = Recipe.parse({"name": "int8", "steps": ["int8_tables", "int8_mlp"]})
FP32, FP16 = RECIPES["fp32"], RECIPES["fp16"]


@pytest.fixture(scope="module")
def graphs():
    return export(SETTINGS)


def export(settings: TrainingSettings, recipe: Recipe | None = None):
    """Both graphs of an untrained model, in the forms that the methods of `recipe` give to it."""
    torch.manual_seed(0)
    items = ItemInputs(torch.ones(3000, 2).long(), torch.full((3000,), 1990.0), torch.rand(3000, 3))
    model = Recommender(SPEC, settings, items)
    with torch.no_grad():
        for value in model.parameters():  # as after training: equal ones would be held once
            value.add_(torch.randn_like(value), alpha=0.01)
    for step in recipe.of_kind(MODEL) if recipe else ():
        forms = MODEL_METHODS[step.method].forms
        if forms is not None:
            model.take_forms(forms(model, step.parsed()))
    model.freeze_items().eval()
    return [export_graph(model, name) for name in MODELS]


@pytest.mark.parametrize("steps", PLANNED, ids=str)
def test_the_plan_is_what_the_graphs_then_hold(graphs, steps):
    recipe = Recipe.parse({"name": "tried", "steps": steps})
    made = sum(cook(recipe, graph).ByteSize() for graph in graphs)
    (planned,) = plan([recipe], weigh_release(SPEC, SETTINGS)).recipes
    assert planned.bytes == pytest.approx(made, rel=0.02)


@pytest.mark.parametrize("name", CHANGED)
def test_sizes_that_settings_decide_are_what_the_graphs_then_hold(name):
    recipe = Recipe.parse({"name": "tried", "steps": CHANGED[name]})
    settings = SETTINGS
    for step in recipe.of_kind(MODEL):
        settings = reshaped(step.parsed(), settings)
    made = sum(cook(recipe, graph).ByteSize() for graph in export(settings, recipe))
    (planned,) = plan([recipe], weigh_release(SPEC, SETTINGS)).recipes
    assert planned.bytes == pytest.approx(made, rel=0.02) and not planned.at_most


@pytest.mark.parametrize("steps", [PLANNED[place] for place in (0, 1, 4, 8, 10, 13)], ids=str)
def test_resident_bytes_are_planned_within_a_tenth_of_what_a_process_holds(graphs, steps, tmp_path):
    recipe = Recipe.parse({"name": "tried", "steps": steps})
    paths = [tmp_path / name / "model.onnx" for name in MODELS]
    for graph, path in zip(graphs, paths, strict=True):
        write_graph(cook(recipe, graph), path)
    (planned,) = plan([recipe], weigh_release(SPEC, SETTINGS)).recipes
    assert planned.resident_bytes == pytest.approx(resident_bytes(paths), rel=0.1)


def test_a_factor_too_wide_to_be_multiplied_at_load_is_held_in_float32_all_the_same(tmp_path):
    recipe = Recipe.parse({"name": "tried", "steps": [{"factorize_tables": {"rank": 64}}, "int8_tables"]})
    table = np.random.default_rng(0).normal(size=(40_000, 256)).astype(np.float32)
    write_graph(cook(recipe, table_graph(table)), tmp_path / "model.onnx")
    (planned,) = plan([recipe], weigh_tables({"users": table.shape})).recipes
    assert planned.resident_bytes == pytest.approx(resident_bytes([tmp_path / "model.onnx"]), rel=0.1)


def test_hot_rows_just_few_enough_to_be_multiplied_at_load_are_within_the_bound():
    mixed = MixedTables(hot_share=0.3)
    steps = [
        {"factorize_tables": {"rank": 64}},
        {"prune_rows": {"share": 0.5}},
        {"mixed_tables": mixed.written()},
    ]
    (planned,) = plan(
        [Recipe.parse({"name": "tried", "steps": steps})], weigh_tables({"users": (120_000, 256)})
    ).recipes
    left = Weight(name="users", rows=83_333, columns=64, kind=TABLES, restored_columns=256)
    assert planned.resident_bytes >= RUNTIME + FOOTPRINTS["mixed_tables"](left, mixed).resident


def test_what_weights_decide_has_an_upper_bound(graphs):
    recipe = Recipe.parse(
        {"name": "tried", "steps": [{"factorize_tables": {"energy": 0.9999}}, "int8_tables"]}
    )
    made = sum(cook(recipe, graph).ByteSize() for graph in graphs)
    answer = plan([recipe], weigh_release(SPEC, SETTINGS), max_bytes=1_000_000)
    (planned,) = answer.recipes
    assert planned.at_most and made <= planned.bytes * 1.02
    assert planned.misses.startswith("at most 2.") and "nearest is tried: at most 2." in answer.answer


def test_a_smaller_model_is_planned_as_it_is_then_exported():
    steps = [{"distil": {"retriever_dim": 16, "ranker_dim": 8, "ranker_hidden": [32], "cross_layers": 1}}]
    small = SETTINGS.model_copy(
        update={
            "retriever": SETTINGS.retriever.model_copy(update={"dim": 16}),
            "ranker": SETTINGS.ranker.model_copy(update={"dim": 8, "hidden": (32,), "cross_layers": 1}),
        }
    )
    made = sum(graph.ByteSize() for graph in export(small))
    (planned,) = plan(
        [Recipe.parse({"name": "small", "steps": steps})], weigh_release(SPEC, SETTINGS)
    ).recipes
    assert planned.bytes == pytest.approx(made, rel=0.02)


def test_fewer_cross_layers_are_planned_as_they_are_then_exported():
    one = SETTINGS.model_copy(update={"ranker": SETTINGS.ranker.model_copy(update={"cross_layers": 1})})
    recipe = Recipe.parse({"name": "one", "steps": [{"prune_cross_layers": {"cross_layers": 1}}]})
    made = sum(graph.ByteSize() for graph in export(one))
    (planned,) = plan([recipe], weigh_release(SPEC, SETTINGS)).recipes
    assert planned.bytes == pytest.approx(made, rel=0.02)


ATTENTIVE = SETTINGS.model_copy(
    update={
        "retriever": RetrieverSettings(model="sasrec", dim=32, sasrec={"layers": 2, "heads": 4}),
        "ranker": RankerSettings(
            model="behaviour_sequence_transformer",
            dim=32,
            hidden=(48, 24),
            behaviour_sequence_transformer={"layers": 2, "heads": 8},
        ),
    }
)


def test_fewer_heads_are_planned_as_they_are_then_exported():
    heads = {"retriever_heads": 2, "ranker_heads": 1}
    on_graphs = {
        "pruned": [],
        "int8_mlp": ["int8_tables", "int8_mlp"],
        "int8_dense": ["int8_tables", "int8_dense"],  # SASRec's items and their vectors are stored alike
        "int4_dense": [{"int4_tables": {"block": 8}}, {"int4_dense": {"block": 8}}],
        "unlike": [{"int4_tables": {"block": 16}}, {"int4_dense": {"block": 8}}],
    }
    recipes = [Recipe.parse({"name": "whole", "steps": []})] + [
        Recipe.parse({"name": name, "steps": [{"prune_heads": heads}, *steps]})
        for name, steps in on_graphs.items()
    ]
    planned = {row.recipe: row.bytes for row in plan(recipes, weigh_release(SPEC, ATTENTIVE)).recipes}
    graphs = export(ATTENTIVE, recipes[1])
    made = {recipe.name: sum(cook(recipe, graph).ByteSize() for graph in graphs) for recipe in recipes[1:]}
    made["whole"] = sum(graph.ByteSize() for graph in export(ATTENTIVE))
    in_4_bits = {
        "int4_dense",
        "unlike",
    }  # what describes the many small matrices of attention is planned high
    for name, size in made.items():
        assert planned[name] == pytest.approx(size, rel=0.04 if name in in_4_bits else 0.02), name
    # The forms that PyTorch's attention gives way to are described in fewer nodes, too.
    assert planned["whole"] - planned["pruned"] == pytest.approx(made["whole"] - made["pruned"], rel=0.15)


def test_the_first_recipe_asked_that_fits_is_named():
    weigh = weigh_tables({"users": (1_000_000, 64)})
    answer = plan([FP32, FP16, INT8], weigh, max_bytes=140_000_000)
    rows = {row.recipe: row for row in answer.recipes}
    assert answer.nearest == "fp16" and answer.answer.startswith("fp16 with 128,")
    assert rows["fp32"].misses == "1.83 times the limit of 140,000,000 bytes served"
    assert rows["int8"].misses is None
    sizes = [row.bytes for row in answer.recipes]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ({"max_bytes": 1_000_000}, "bytes served"),
        ({"max_resident_bytes": 1_000_000}, "bytes resident"),
    ],
)
def test_when_nothing_fits_the_nearest_and_how_near_it_comes_are_said(limits, named):
    answer = plan([FP32, INT8], weigh_tables({"users": (100_000, 64)}), **limits)
    assert answer.nearest == "int8"
    assert answer.answer.startswith("nothing fits; the nearest is int8: ") and named in answer.answer


def test_a_small_weight_stays_as_it_is():
    small = weigh_tables({"genders": (3, 64)})
    fp32, int8 = (plan([recipe], small).recipes[0] for recipe in (FP32, INT8))
    assert fp32.bytes == int8.bytes


def test_a_recipe_that_changes_more_than_the_tables_given_is_told_apart():
    weigh = weigh_tables({"users": (1000, 64)})
    distilled = Recipe.parse({"name": "distilled", "steps": ["distil"]})
    assert plan([FP32, distilled], weigh).unplanned == ("distilled",)
    with pytest.raises(CompressionError, match="tables by themselves do not tell the bytes of distilled"):
        plan([distilled], weigh)


@pytest.mark.parametrize("method", GRAPH_METHODS)
def test_every_method_on_graphs_is_foreseen(method):
    recipe = Recipe.parse({"name": "tried", "steps": [method]})
    answer = plan([recipe], weigh_release(SPEC, SETTINGS))
    assert [row.recipe for row in answer.recipes] == ["tried"]


DECIDED_BY_DATA = [
    [{"prune_rows": {"share": 0.5}}],
    [{"prune_rows": {"share": 0.3}}, "int8_tables", "int8_mlp"],
    [{"prune_rows": {"share": 0.5}}, {"factorize_tables": {"energy": 0.9}}, "int4_tables"],
    [{"factorize_tables": {"rank": 6}}, {"prune_rows": {"share": 0.9}}, "fp16"],
    [{"mixed_tables": {"max_error": 0.002}}],
    [{"mixed_tables": {"max_error": 0.05, "hot_share": 0.3, "block": 8}}, "int8_dense"],
    [{"prune_rows": {"share": 0.6}}, {"mixed_tables": {"max_error": 0.2}}],
]


@pytest.mark.parametrize("looked_up", ["evenly", "a few rows most"])
@pytest.mark.parametrize("steps", DECIDED_BY_DATA, ids=str)
def test_what_data_decides_has_an_upper_bound(graphs, steps, looked_up):
    recipe = Recipe.parse({"name": "tried", "steps": steps})
    asked = partial(random_requests, few=looked_up != "evenly")
    made = sum(cook(recipe, graph, partial(asked, graph)).ByteSize() for graph in graphs)
    (planned,) = plan([recipe], weigh_release(SPEC, SETTINGS)).recipes
    assert planned.at_most and made <= planned.bytes


def random_requests(graph: onnx.ModelProto, *, few: bool) -> dict[str, np.ndarray]:
    """Of every input of `graph`, 128 rows; with `few`, two thirds of what is looked up are the first rows."""
    random, rows = np.random.default_rng(0), {"user_index": SPEC.num_users, "user_attributes": 90}
    asked = {}
    for value in graph.graph.input:
        dims = [size.dim_value for size in value.type.tensor_type.shape.dim]
        shape = (128, *(dim or 30 for dim in dims[1:]))
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            asked[value.name] = random.random(shape, dtype=np.float32)
            continue
        drawn = random.integers(1, rows.get(value.name, SPEC.num_items), shape)
        asked[value.name] = np.where(random.random(shape) < 0.66, drawn % 20 + 1, drawn) if few else drawn
    return asked


@pytest.mark.parametrize(
    "after",
    [
        [],
        ["int8_tables"],
        [{"int8_tables": {"block": 8, "symmetric": False}}],
        ["int4_tables"],
        [{"product_quantized_tables": {"min_rows": 150}}],
        [{"factorize_tables": {"rank": 5}}, "int8_tables"],
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(128, 8), (200, 16)], ids=str)
def test_a_bound_holds_for_every_number_of_rows_that_may_go(size, after):
    """Rows that nobody looks up go, so many as `share` allows; the others are looked up once."""
    rows, share = size[0], 0.9
    recipe = Recipe.parse({"name": "tried", "steps": [{"prune_rows": {"share": share}}, *after]})
    (planned,) = plan([recipe], weigh_tables({"users": size})).recipes
    graph = table_graph(np.random.default_rng(0).normal(size=size).astype(np.float32) + 2)
    described = NODES + NAMES * (2 if "factorize_tables" in recipe.methods else 1)
    most = 0
    for going in range(1, int(share * rows) + 1):
        asked = {"ids": np.arange(going, rows)[:, None]}
        try:
            made = cook(recipe, graph, lambda asked=asked: asked)
        except CompressionError:  # so few rows went, or are left, that there is nothing to store otherwise
            continue
        most = max(most, sum(len(tensor.raw_data) for tensor in made.graph.initializer))
    assert 0 < most <= planned.bytes - described


@pytest.mark.parametrize(
    ("step", "sizes", "sentence"),
    [
        ({"prune_rows": {"share": 0.001}}, {"users": (1000, 64)}, "no table would become smaller"),
        ("prune_rows", {"users": (127, 64)}, "the graph has no gathered table of 128 rows and"),
    ],
)
def test_rows_that_could_not_go_are_refused(step, sizes, sentence):
    recipe = Recipe.parse({"name": "mine", "steps": [step]})
    answer = plan([FP32, recipe], weigh_tables(sizes))
    assert answer.refused["mine"].startswith(f"prune_rows: {sentence}")


def test_the_rows_that_a_table_may_keep_are_sought_once(monkeypatch):
    sought = []
    seek = shapes._rows_kept
    monkeypatch.setattr(shapes, "_rows_kept", lambda table, *more: sought.append(table) or seek(table, *more))
    steps = [{"prune_rows": {"share": 0.97}}, {"factorize_tables": {"energy": 0.9}}]
    plan([Recipe.parse({"name": "tried", "steps": steps})], weigh_tables({"users": (2_000, 16)}))
    assert len(sought) == 1


@pytest.mark.parametrize("step", ["prune_rows", "mixed_tables"])
@pytest.mark.parametrize(
    ("rows", "columns"), [(500, 64), (40_000, 32), (50_100, 64), (60_000, 64), (200_000, 16)]
)
def test_a_bound_by_data_is_no_more_than_the_widest_form(step, rows, columns):
    """Of rows none may go; of forms 16 bits are the widest; no more is restored than there is."""
    recipe = Recipe.parse({"name": "tried", "steps": [step]})
    weigh = weigh_tables({"users": (rows, columns)})
    (planned,), (plain,), (half,) = (plan([each], weigh).recipes for each in (recipe, FP32, FP16))
    assert planned.at_most
    widest = plain if step == "prune_rows" else half
    assert widest.bytes <= planned.bytes <= widest.bytes + 1_500
    assert widest.resident_bytes <= planned.resident_bytes <= plain.resident_bytes + 4 * rows + 100_000


@pytest.mark.parametrize(
    ("part", "model"),
    [("retriever", "gru4rec"), ("retriever", "ease"), ("ranker", "din"), ("ranker", "logistic_regression")],
)
def test_an_architecture_of_unknown_sizes_is_refused_with_the_way_out(part, model, tmp_path):
    sentence = f"alone are known, and the {part} is '{model}'; .*--table NAME=ROWSxCOLUMNS"
    other = TrainingSettings.parse({part: {"model": model}})
    with pytest.raises(CompressionError, match=sentence):
        plan([FP32], weigh_release(SPEC, other))
    values = yaml.safe_load(Path("configs/demo.yaml").read_text())
    config = tmp_path / "other.yaml"
    config.write_text(yaml.safe_dump({**values, "training": {part: {"model": model}}}))
    sizes = ["--users", "10", "--items", "10", "--work", str(tmp_path)]
    refused = CliRunner().invoke(app, ["compress", "plan", str(config), *sizes])
    assert isinstance(refused.exception, CompressionError)
    assert f"the {part} is '{model}'" in str(refused.exception)


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        ({"prune_dimensions": {"retriever_dim": 33}}, "retriever_dim 33 is above the retriever's width 32"),
        ({"prune_dimensions": {"ranker_dim": 17}}, "ranker_dim 17 is above the ranker's width 16"),
        ({"prune_cross_layers": {"cross_layers": 4}}, "cross_layers 4 is above the 3 that the ranker has"),
        ({"low_rank": {"cross_rank": 500}}, "rank 500 is above the width 104 of ranker.cross.layers.0"),
        ({"low_rank": {"cross_rank": 60}}, "no layer would become smaller"),
        ({"hash_tables": {"tables": ["ranker.gender"]}}, "there is no table 'ranker.gender'; known: "),
        ({"robe_tables": {"chunk": 5}}, "chunk 5 does not divide the tables' width 32"),
        ({"tensor_train_tables": {"rank": 400}}, "retriever.user would hold "),
        ({"factorize_tables": {"rank": 200}}, "rank 200 is above the width 35 of the widest table"),
        ({"factorize_tables": {"rank": 32}}, "no table would become smaller"),
    ],
    ids=str,
)
def test_what_a_method_would_refuse_is_not_planned_and_the_reason_is_told(step, sentence):
    ((method, _),) = step.items()
    recipe = Recipe.parse({"name": "mine", "steps": [step]})
    answer = plan([FP32, recipe], weigh_release(SPEC, SETTINGS))
    assert [row.recipe for row in answer.recipes] == ["fp32"] and not answer.unplanned
    assert answer.refused.keys() == {"mine"} and answer.refused["mine"].startswith(f"{method}: {sentence}")
    with pytest.raises(CompressionError, match=f"mine is refused: {method}: {sentence}"):
        plan([recipe], weigh_release(SPEC, SETTINGS))


def test_a_method_that_needs_a_plain_model_is_refused_after_one_that_gives_forms():
    recipe = Recipe.parse({"name": "mine", "steps": ["hash_tables", {"prune_neurons": {"share": 0.5}}]})
    refused = plan([FP32, recipe], weigh_release(SPEC, SETTINGS)).refused
    assert refused["mine"].startswith("retriever.sparse.tables.user has the form hashed already")


def test_a_method_that_wants_attention_is_refused_where_there_is_none():
    recipe = Recipe.parse({"name": "mine", "steps": [{"prune_heads": {"retriever_heads": 1}}]})
    refused = plan([FP32, recipe], weigh_release(SPEC, SETTINGS)).refused
    assert refused["mine"].startswith(
        "prune_heads knows the inside of sasrec alone, and the retriever is 'two"
    )


def test_a_retriever_without_a_table_of_histories_has_none_to_share():
    settings = SETTINGS.model_copy(update={"retriever": ATTENTIVE.retriever})
    recipe = Recipe.parse({"name": "mine", "steps": ["share_items"]})
    refused = plan([FP32, recipe], weigh_release(SPEC, settings)).refused
    assert refused["mine"].startswith("share_items: the retriever 'sasrec' has no table of its own")


def test_a_table_by_itself_is_planned_in_the_form_that_a_recipe_gives_it():
    weigh = weigh_tables({"users": (10_000_000, 64)})
    hashed = Recipe.parse({"name": "hashed", "steps": [{"hash_tables": {"tables": ["users"], "share": 0.1}}]})
    train = {"tensor_train_tables": {"tables": ["users"], "rank": 16}}
    (plain,) = plan([FP32], weigh).recipes
    (tenth,) = plan([hashed], weigh).recipes
    assert tenth.bytes == pytest.approx(plain.bytes / 10, rel=1e-4)
    (cores,) = plan([Recipe.parse({"name": "train", "steps": [train]})], weigh).recipes
    assert cores.bytes < 4_000_000
    by_default = Recipe.parse({"name": "by_default", "steps": ["hash_tables"]})
    refused = plan([FP32, by_default], weigh).refused
    assert refused["by_default"] == "hash_tables: there is no table 'retriever.user'; known: users"


def test_more_users_hold_more_bytes_and_nothing_else_changes():
    larger = replace(SPEC, num_users=SPEC.num_users + 1000)
    before, after = (plan([FP32], weigh_release(spec, SETTINGS)).recipes[0] for spec in (SPEC, larger))
    assert after.bytes - before.bytes == 2 * 1000 * 4 * (32 + 16)


@pytest.mark.parametrize(
    ("text", "size"), [("500MB", 500_000_000), ("2 GiB", 2 << 30), ("1.5kb", 1500), ("77", 77)]
)
def test_a_size_is_read_with_its_unit(text, size):
    assert size_of(text) == size


@pytest.mark.parametrize("text", ["", "many", "5 elephants", "1.2.3GB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ConfigError, match="is no size; write it as 500MB"):
        size_of(text)


def test_the_command_answers_in_json_and_refuses_what_it_cannot_read():
    done = CliRunner().invoke(app, ["compress", "plan", "--table", "users=10_000_000x64", "--json"])
    rows = {row["recipe"]: row["bytes"] for row in json.loads(done.stdout)["recipes"]}
    assert rows["fp32"] == pytest.approx(2.56e9, rel=1e-4)
    for arguments, sentence in [
        (["--table", "users=10"], "write it as NAME=ROWSxCOLUMNS"),
        ([], "one of both"),
        (["configs/demo.yaml", "--work", "nowhere"], "give --users and --items"),
        (["--table", "users=0x64"], "both at least 1"),
        (["--table", "users=1__0x64"], "write it as NAME=ROWSxCOLUMNS"),
        (["--table", "users=10x64", "--table", "users=20x64"], "users is given twice"),
    ]:
        refused = CliRunner().invoke(app, ["compress", "plan", *arguments])
        assert sentence in str(refused.exception), arguments


def test_the_command_plans_tables_by_the_recipes_of_a_configuration(tmp_path):
    values = yaml.safe_load(Path("configs/demo.yaml").read_text())
    steps = [{"hash_tables": {"tables": ["users"], "share": 0.5}}, "int4_tables"]
    mine = [{"name": "mine", "steps": steps}, "int8_tables", {"name": "other", "steps": ["hash_tables"]}]
    config = tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump({**values, "compression": {"recipes": [*mine, "lean"]}}))
    asked = ["compress", "plan", str(config), "--table", "users=1000000x64"]
    answer = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    rows = {row["recipe"]: row["bytes"] for row in answer["recipes"]}
    assert rows.keys() == {"mine", "int8_tables"} and answer["unplanned"] == ["lean"]
    assert rows["mine"] == pytest.approx(500_000 * 36, rel=1e-3)
    assert "there is no table 'retriever.user'; known: users" in answer["refused"]["other"]
    shown = " ".join(CliRunner().invoke(app, asked).stdout.split())
    assert "other is refused: hash_tables: there is no table" in shown and "Not foreseen: lean" in shown


def test_a_table_keeps_its_name_as_it_is_written(tmp_path):
    values = yaml.safe_load(Path("configs/demo.yaml").read_text())
    tables = ["retriever.user_group", "retriever.usergroup"]
    recipe = {"name": "mine", "steps": [{"hash_tables": {"tables": tables[:1], "share": 0.5}}]}
    config = tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump({**values, "compression": {"recipes": [recipe]}}))
    sizes = [word for name in tables for word in ("--table", f"{name}=1_000x64")]
    done = CliRunner().invoke(app, ["compress", "plan", str(config), *sizes, "--json"])
    (row,) = json.loads(done.stdout)["recipes"]
    assert row["bytes"] == pytest.approx(1_500 * 256, rel=0.05)


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_where_nothing_fits_the_plan_is_shown_and_the_command_fails(as_json):
    asked = ["compress", "plan", "--table", "users=1000000x64", *as_json]
    assert CliRunner().invoke(app, [*asked, "--max-bytes", "1GB"]).exit_code == 0
    refused = CliRunner().invoke(app, [*asked, "--max-bytes", "1kB"])
    assert isinstance(refused.exception, CompressionError) and refused.exception.exit_status == 2
    assert str(refused.exception).startswith("compress plan: nothing fits; the nearest is ")
    assert "fp32" in refused.stdout


@pytest.mark.parametrize(
    "after",
    [
        [],
        ["int8_tables"],
        ["int4_tables"],
        ["int4_tables", "int4_dense"],
        ["product_quantized_tables"],
        ["int8_tables", "int8_mlp"],
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(100, 16), (300, 128), (1_000, 64), (1_000, 128), (20_000, 32)], ids=str)
def test_a_bound_holds_for_every_rank_that_the_weights_may_need(size, after):
    def held(factorize):
        recipe = Recipe.parse({"name": "tried", "steps": [{"factorize_tables": factorize}, *after]})
        return plan([recipe], weigh_tables({"users": size})).recipes[0]

    whole = plan([Recipe.parse({"name": "tried", "steps": after})], weigh_tables({"users": size})).recipes[0]
    bound = held({"energy": 0.99})
    assert bound.at_most
    for each in [whole, *(held({"rank": rank}) for rank in range(1, size[1]) if saves(*size, rank))]:
        assert each.bytes <= bound.bytes and each.resident_bytes <= bound.resident_bytes


def test_the_step_still_answers_to_its_old_name():
    refused = CliRunner().invoke(app, ["compress", "configs/nowhere.yaml"])
    assert isinstance(refused.exception, ConfigError) and "configs/nowhere.yaml" in str(refused.exception)
