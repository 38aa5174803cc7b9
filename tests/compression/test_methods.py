"""The contract that every compression method passes, and what theory says of each one's error."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_graph import DIM, HIDDEN, ROWS, answer, requests, small_graph, small_model, table_graph

from leanrec.compression.methods import GRAPH_METHODS, MODEL_METHODS, int4, int8_tables
from leanrec.compression.methods.product_quantized_tables import Codebook, num_codes
from leanrec.compression.recipes import RECIPES, cook
from leanrec.compression.rounding import round_asymmetric
from leanrec.config import CompressionSettings, Recipe
from leanrec.config.methods import GRAPH, Int4Tables, Int8Tables, ProductQuantizedTables
from leanrec.config.methods import METHODS as METHOD_SETTINGS
from leanrec.errors import CompressionError, ConfigError

METHODS = GRAPH_METHODS
LARGEST_SCORE_ERROR = {
    "fp16": 0.01,
    "bf16": 0.1,
    "int8_tables": 0.1,
    "int4_tables": 1.0,
    "product_quantized_tables": 0.1,
    "mixed_tables": 1.0,
    "int8_mlp": 0.3,
    "int8_static": 0.3,
    "int8_dense": 0.1,
    "int4_dense": 1.0,
    "factorize_tables": 1.0,
    "prune_rows": 5.0,
}
SETTINGS = {"prune_rows": {"share": 0.5}, "factorize_tables": {"energy": 0.95}}
"""Where the method as it comes would not change a model as small as this one."""
FULL_RANK = np.random.default_rng(5).normal(size=(ROWS, DIM)).astype(np.float32)


def apply(name: str, graph: onnx.ModelProto) -> onnx.ModelProto:
    return METHODS[name].apply(graph, METHOD_SETTINGS[name](**SETTINGS.get(name, {})), requests)


@pytest.mark.parametrize("name", METHODS)
class TestEveryMethod:
    """What a new method passes by being in a recipe, with its error stated above."""

    def test_scores_stay_close_in_fewer_bytes_behind_the_same_interface(self, name, tmp_path):
        graph, ids = small_model(), np.random.default_rng(1).integers(0, ROWS, (40, 7))
        compressed = apply(name, graph)
        assert compressed.graph.input == graph.graph.input
        assert compressed.graph.output == graph.graph.output
        assert compressed.opset_import == graph.opset_import  # no operator that an older runtime lacks
        assert compressed.ByteSize() < 0.8 * graph.ByteSize()
        difference = np.abs(answer(compressed, ids, tmp_path) - answer(graph, ids, tmp_path)).max()
        assert 0 < difference < LARGEST_SCORE_ERROR[name]

    def test_the_same_graph_gives_the_same_bytes_and_stays_as_it_was(self, name):
        graph = small_model()
        before = graph.SerializeToString(deterministic=True)
        first, second = (apply(name, graph).SerializeToString(deterministic=True) for _ in range(2))
        assert first == second
        assert graph.SerializeToString(deterministic=True) == before

    def test_a_graph_without_such_weights_is_refused(self, name):
        graph = table_graph(np.ones((4, 4), np.float32))
        with pytest.raises(CompressionError, match=f"{name}: the graph has no"):
            apply(name, graph)


@pytest.mark.parametrize(
    ("name", "own"), [("factorize_tables", {"energy": 1.0}), ("prune_rows", {"share": 0.001})]
)
def test_tables_that_would_not_become_smaller_are_refused(name, own):
    with pytest.raises(CompressionError, match=f"{name}: no table would become smaller"):
        METHODS[name].apply(table_graph(FULL_RANK), METHOD_SETTINGS[name](**own), requests)


@pytest.mark.parametrize("spread", [1.0, 100.0])
def test_the_graph_restores_a_table_exactly_as_stated(tmp_path, spread):
    table = np.random.default_rng(2).normal(size=(150, 16)).astype(np.float32)
    table[:, 3] *= spread
    table[5] = 0
    quantized = int8_tables.quantize(table)
    assert (quantized.columns is not None) == (spread > 1)
    rows = answer(METHODS["int8_tables"].apply(table_graph(table)), np.arange(150)[None], tmp_path)[0]
    np.testing.assert_array_equal(rows, quantized.restored())
    assert not rows[5].any()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("width", "block"), [(16, 0), (16, 4), (17, 5), (17, 20)])
@pytest.mark.parametrize("spread", [1.0, 100.0])
def test_the_graph_restores_an_8_bit_table_exactly_as_stated(tmp_path, width, block, symmetric, spread):
    table = np.random.default_rng(2).normal(size=(150, width)).astype(np.float32)
    table[:, 3] *= spread
    table[5] = 0
    given = Int8Tables(block=block, symmetric=symmetric)
    rows = answer(METHODS["int8_tables"].apply(table_graph(table), given), np.arange(150)[None], tmp_path)[0]
    np.testing.assert_array_equal(rows, int8_tables.quantize(table, block, symmetric).restored())
    assert not rows[5].any()


@pytest.mark.parametrize("block", [0, 4])
@pytest.mark.parametrize("largest", [1, 65_504, -1e6, 3e38])
def test_a_least_value_takes_no_more_bytes_than_a_scale_alone(block, largest):
    table = np.random.default_rng(2).normal(size=(150, 16)).astype(np.float32)
    table[7, 2] = largest
    graph = table_graph(table)
    symmetric, asymmetric = (
        METHODS["int8_tables"].apply(graph, Int8Tables(block=block, symmetric=is_symmetric))
        for is_symmetric in (True, False)
    )
    by_column = 0 if largest == 1 else 4 * 16
    assert weights_in(symmetric) <= weights_in(asymmetric) <= weights_in(symmetric) + by_column


@pytest.mark.parametrize("largest", [65_504, -1e6])
def test_a_number_beyond_a_half_costs_other_rows_nothing(largest):
    table = np.random.default_rng(2).normal(size=(150, 16)).astype(np.float32)
    table[7, 2] = largest
    others = np.arange(150) != 7
    for levels in (255, 15):
        rounded = round_asymmetric(table, levels, smallest=int8_tables.SMALLEST).restored()
        span = np.ptp(table[others], axis=1, keepdims=True)
        assert (np.abs(rounded - table)[others] <= 1.05 * span / levels / 2).all()


def weights_in(graph: onnx.ModelProto) -> int:
    """Bytes of the constants of `graph`."""
    return sum(len(tensor.raw_data) for tensor in graph.graph.initializer)


@pytest.mark.parametrize(("width", "bits"), [(16, 4), (16, 3.75), (17, 2.5), (4, 1), (3, 8)])
def test_the_graph_restores_a_product_quantized_table_exactly_as_stated(tmp_path, width, bits):
    table = np.random.default_rng(2).normal(size=(20_000, width)).astype(np.float32)
    graph = METHODS["product_quantized_tables"].apply(table_graph(table), ProductQuantizedTables(bits=bits))
    codebook = Codebook.learn(table, bits)
    codes = codebook.encode(table)
    assert codes.dtype == np.uint8 and codes.shape == (20_000, num_codes(width, bits))
    ids = np.arange(0, 20_000, 40).reshape(2, -1)
    rows = answer(graph, ids, tmp_path)
    np.testing.assert_array_equal(rows, codebook.restored(codes)[ids])


def test_more_bits_restore_a_product_quantized_table_better():
    table = np.random.default_rng(2).normal(size=(20_000, 24)).astype(np.float32)
    for bits in (1, 2, 3, 4):
        codebook = Codebook.learn(table, bits)
        error = float(np.square(table - codebook.restored(codebook.encode(table))).mean())
        # Nothing does better than 4 ** -bits with normal numbers; one scale a row and even steps do worse.
        assert 4.0**-bits < error < 3 * 4.0**-bits


def test_a_code_is_that_of_the_nearest_centroid():
    table = np.random.default_rng(2).normal(size=(500, 6)).astype(np.float32)
    codebook = Codebook.learn(table, 4)
    restored = codebook.restored(codebook.encode(table)).reshape(500, 3, 2)
    distances = np.square(table.reshape(500, 3, 1, 2) - codebook.centroids).sum(axis=3)
    error = np.square(table.reshape(500, 3, 2) - restored).sum(axis=2)
    np.testing.assert_allclose(error, distances.min(axis=2), atol=1e-5)


@pytest.mark.parametrize(("rows", "min_rows"), [(150, 0), (20_000, 20_001)])
def test_a_table_too_small_for_codebooks_is_stored_in_8_bits(tmp_path, rows, min_rows):
    table = np.random.default_rng(2).normal(size=(rows, 16)).astype(np.float32)
    given = ProductQuantizedTables(min_rows=min_rows)
    ours = METHODS["product_quantized_tables"].apply(table_graph(table), given)
    plain, ids = METHODS["int8_tables"].apply(table_graph(table)), np.arange(150)[None]
    np.testing.assert_array_equal(answer(ours, ids, tmp_path), answer(plain, ids, tmp_path))


@pytest.mark.parametrize(("width", "block"), [(16, 0), (16, 4), (17, 0), (17, 5)])
@pytest.mark.parametrize("spread", [1.0, 100.0])
def test_the_graph_restores_a_4_bit_table_exactly_as_stated(tmp_path, width, block, spread):
    table = np.random.default_rng(2).normal(size=(150, width)).astype(np.float32)
    table[:, 3] *= spread
    graph = METHODS["int4_tables"].apply(table_graph(table), Int4Tables(block=block))
    rows = answer(graph, np.arange(150)[None], tmp_path)[0]
    np.testing.assert_array_equal(rows, int4.quantize(table, block).restored())


def test_a_table_beyond_the_range_of_a_half_keeps_its_4_bits(tmp_path):
    table = np.random.default_rng(2).normal(size=(150, 16)).astype(np.float32) * 1e6
    quantized = int4.quantize(table, 0)
    rows = answer(METHODS["int4_tables"].apply(table_graph(table)), np.arange(150)[None], tmp_path)[0]
    np.testing.assert_array_equal(rows, quantized.restored())
    assert (np.abs(rows - table) <= quantized.largest_error()).all()


def test_a_table_that_half_precision_cannot_hold_stays_as_it_is(tmp_path):
    table = np.full((150, 16), 1e6, np.float32)
    rows = answer(METHODS["fp16"].apply(table_graph(table)), np.arange(150)[None], tmp_path)[0]
    np.testing.assert_array_equal(rows, table)


@pytest.mark.parametrize("name", ["int8_static", "int8_mlp"])
def test_who_shares_the_batch_decides_only_where_the_method_says_so(name, tmp_path):
    graph, ids = apply(name, small_model()), np.random.default_rng(1).integers(0, ROWS, (40, 7))
    together = answer(graph, ids, tmp_path)
    alone = np.concatenate([answer(graph, row[None], tmp_path) for row in ids])
    assert np.array_equal(together, alone) is not METHOD_SETTINGS[name].scales_by_batch


def test_int8_static_refuses_requests_that_do_not_stand_for_the_traffic():
    """Half of the requests fixes the ranges; a mean over one row alone is larger than one over seven."""
    ids = np.random.default_rng(4).integers(1, ROWS, (400, 7))
    drifted = np.where(np.arange(400)[:, None] < 200, ids, ids[:, :1])
    apply_to = GRAPH_METHODS["int8_static"].apply
    strict, lenient = METHOD_SETTINGS["int8_static"](), METHOD_SETTINGS["int8_static"](max_clipped=1.0)
    sentence = (
        r"int8_static: .*% of the values at active lie outside .* at most 1.00% may; .* raise num_requests"
    )
    with pytest.raises(CompressionError, match=sentence):
        apply_to(small_model(), strict, lambda: {"ids": drifted})
    assert apply_to(small_model(), lenient, lambda: {"ids": drifted}).ByteSize()
    assert apply_to(
        small_model(), strict, lambda: {"ids": np.random.default_rng(5).permutation(ids)}
    ).ByteSize()


@pytest.mark.parametrize("name", ["int8_static", "int8_mlp"])
def test_layers_in_8_bits_are_exact_on_every_processor(name, tmp_path):
    # All weights and inputs as large as they come: two products added in 16 bits are beyond them with 8-bit
    # weights, and a processor without VNNI cuts them off at a third of what they are.
    weights = {"table": np.ones((ROWS, DIM), np.float32), "first": np.ones((DIM, HIDDEN), np.float32)}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], axis=0),
        helper.make_node("MatMul", ["rows", "first"], ["score"]),
    ]
    graph = apply(name, small_graph(nodes, weights, {"score": [None, None, HIDDEN]}))
    stored = [numpy_helper.to_array(t) for t in graph.graph.initializer if t.data_type == TensorProto.INT8]
    assert max(int(np.abs(values.astype(int)).max()) for values in stored) <= 64
    answered = answer(graph, np.arange(40)[None], tmp_path)
    np.testing.assert_allclose(answered, DIM, rtol=1e-3)


def test_int8_is_smaller_than_either_half_of_it():
    sizes = {
        name: cook(RECIPES[name], small_model()).ByteSize()
        for name in ("fp32", "fp16", "int8_tables", "int8_mlp", "int8")
    }
    assert sizes["int8"] < min(sizes["int8_tables"], sizes["int8_mlp"], sizes["fp16"]) < sizes["fp32"]


def test_every_method_has_settings_and_every_setting_a_method():
    of_graphs = {name for name, settings in METHOD_SETTINGS.items() if settings.kind == GRAPH}
    assert of_graphs == GRAPH_METHODS.keys()
    assert METHOD_SETTINGS.keys() - of_graphs == MODEL_METHODS.keys()


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        ("int8_table", "setting 'recipes.0': there is no recipe 'int8_table'; did you mean 'int8_tables'"),
        ({"steps": ["fp16"]}, "setting 'recipes.0.name' is missing; add it"),
        ({"name": "a/b", "steps": []}, "setting 'recipes.0.name': .*made of letters"),
        (["int8_tabels"], "there is no method 'int8_tabels'; did you mean 'int8_tables'"),
        ([{"fp16": {"bits": 8}}], "fp16: unknown setting 'bits'"),
        ([{"fp16": {}, "int8_mlp": {}}], "a step is a method's name, or {name: settings}"),
        (["int8_tables", "fp16"], "int8_tables and fp16 both rewrite the tables weights"),
        (["hash_tables", "share_items"], "hash_tables and share_items both rewrite the retriever.history"),
        (["int4_tables", "low_rank"], "folded already; put low_rank first"),
        (
            ["quantization_aware", "int4_tables"],
            r"rounds tables as int8_tables \(block 0, symmetric True\), but int4_tables \(block 0\) follows",
        ),
        (
            [{"quantization_aware": {"table_bits": 4, "block": 8}}, {"int4_tables": {"block": 32}}],
            r"rounds tables as int4_tables \(block 8\), but int4_tables \(block 32\) follows",
        ),
        (
            [{"quantization_aware": {"int8_block": 4}}, {"int8_tables": {"block": 4, "symmetric": False}}],
            r"\(block 4, symmetric True\), but int8_tables \(block 4, symmetric False\) follows; let",
        ),
        (
            [{"quantization_aware": {"table_bits": 4, "int8_block": 4}}],
            "int8_block 4 and int8_symmetric True are of tables in 8 bits, and table_bits is 4; leave",
        ),
    ],
)
def test_a_recipe_that_cannot_be_is_named_with_the_way_out(recipe, sentence):
    written = {"name": "mine", "steps": recipe} if isinstance(recipe, list) else recipe
    with pytest.raises(ConfigError, match=sentence):
        CompressionSettings.parse({"recipes": [written]})


@pytest.mark.parametrize(
    ("aware", "served"),
    [
        ({}, "int8_tables"),
        ({"int8_block": 4, "int8_symmetric": False}, {"int8_tables": {"block": 4, "symmetric": False}}),
        ({"table_bits": 4, "block": 8}, {"int4_tables": {"block": 8}}),
        ({"block": 8}, "mixed_tables"),
    ],
    ids=str,
)
def test_tables_may_be_served_as_fine_tuning_rounded_them(aware, served):
    recipe = Recipe.parse({"name": "mine", "steps": [{"quantization_aware": aware}, served]})
    assert Recipe.parse(recipe.model_dump()) == recipe


def test_settings_say_the_same_after_a_trip_through_json():
    own = {"name": "mine", "steps": ["int8_tables", {"int8_mlp": {}}]}
    settings = CompressionSettings.parse({"recipes": ["int8", own]})
    assert CompressionSettings.parse(settings.model_dump(mode="json")) == settings
    assert settings.recipes[0] == RECIPES["int8"] and isinstance(settings.recipes[1], Recipe)
