"""The plan: its arithmetic held against graphs that were really exported and compressed."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from leanrec.cli import app
from leanrec.cli.compression import size_of
from leanrec.compression.footprint import FOOTPRINTS
from leanrec.compression.plan import plan, tables_of, weights_of_release
from leanrec.compression.recipes import RECIPES, cook
from leanrec.config import RankerSettings, RetrieverSettings, TrainingSettings
from leanrec.errors import CompressionError, ConfigError
from leanrec.export.onnx_export import export_module
from leanrec.models.inputs import ItemInputs
from leanrec.models.recommender import Recommender
from leanrec.schema import RANKER, RECOMMENDER, ModelSpec

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
METHODS = {name: recipe.methods for name, recipe in RECIPES.items()}
PLANNED = [name for name, methods in METHODS.items() if set(methods) <= FOOTPRINTS.keys()]


@pytest.fixture(scope="module")
def graphs():
    torch.manual_seed(0)
    items = ItemInputs(torch.ones(3000, 2).long(), torch.full((3000,), 1990.0), torch.rand(3000, 3))
    model = Recommender(SPEC, SETTINGS, items).freeze_items().eval()
    return [export_module(model, SPEC, RECOMMENDER), export_module(model.ranker(), SPEC, RANKER)]


@pytest.mark.parametrize("recipe", PLANNED)
def test_the_plan_is_what_the_graphs_then_hold(graphs, recipe):
    made = sum(cook(RECIPES[recipe], graph).ByteSize() for graph in graphs)
    (planned,) = plan(weights_of_release(SPEC, SETTINGS), {recipe: METHODS[recipe]}).recipes
    assert planned.bytes == pytest.approx(made, rel=0.015)


def test_the_first_recipe_asked_that_fits_is_named():
    weights = tables_of({"users": (1_000_000, 64)})
    answer = plan(weights, METHODS, max_bytes=140_000_000)
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
    answer = plan(tables_of({"users": (100_000, 64)}), {"fp32": [], "int8": METHODS["int8"]}, **limits)
    assert answer.nearest == "int8"
    assert answer.answer.startswith("nothing fits; the nearest is int8: ") and named in answer.answer


def test_a_small_weight_stays_as_it_is():
    small = tables_of({"genders": (3, 64)})
    fp32, int8 = (plan(small, {name: METHODS[name]}).recipes[0] for name in ("fp32", "int8"))
    assert fp32.bytes == int8.bytes


def test_a_recipe_whose_bytes_training_decides_is_told_apart():
    weights = tables_of({"users": (1000, 64)})
    assert plan(weights, {"fp32": [], "pruned": ["prune_by_magic"]}).unplanned == ("pruned",)
    with pytest.raises(CompressionError, match="bytes of pruned are decided by training"):
        plan(weights, {"pruned": ["prune_by_magic"]})


def test_more_users_hold_more_bytes_and_nothing_else_changes():
    larger = replace(SPEC, num_users=SPEC.num_users + 1000)
    before, after = (
        plan(weights_of_release(spec, SETTINGS), {"fp32": []}).recipes[0] for spec in (SPEC, larger)
    )
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
    ]:
        refused = CliRunner().invoke(app, ["compress", "plan", *arguments])
        assert sentence in str(refused.exception), arguments


def test_the_step_still_answers_to_its_old_name():
    refused = CliRunner().invoke(app, ["compress", "configs/nowhere.yaml"])
    assert isinstance(refused.exception, ConfigError) and "configs/nowhere.yaml" in str(refused.exception)


def test_the_arithmetic_of_int8_counts_what_the_format_holds():
    _, int8 = FOOTPRINTS["int8_tables"]
    table = tables_of({"t": (1000, 8)})[0]
    assert int8(table).served == np.int8(0).nbytes * 8000 + 4 * 1000 + 4 * 8
