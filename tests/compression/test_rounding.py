"""How far rounding may move a table: bounds from theory, computed here, against what a server answers.

A method's own statement of its error (`largest_error`) is held, too; alone it would let a scale pass that is
ten times too large, for it is made of that scale.
"""

from __future__ import annotations

from functools import partial

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from small_graph import answer, table_graph

from leanrec.compression.methods import GRAPH_METHODS, fp16, int4, int8_tables
from leanrec.config.methods import METHODS

EPS, TINY = float(np.finfo(np.float32).eps), float(np.finfo(np.float32).tiny)
EVENED_WHEN_BETTER = 0.8
"""Columns get scales of their own where that leaves less than this share of the squared error."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("graphs")


def tables():
    shape = st.tuples(st.integers(130, 160), st.integers(4, 9))
    scale = st.sampled_from([1e-6, 1e-2, 1.0, 1e3])
    values = shape.flatmap(lambda s: hnp.arrays(np.float32, s, elements=st.floats(-1, 1, width=32)))
    return st.tuples(values, scale).map(lambda pair: (pair[0] * np.float32(pair[1])).astype(np.float32))


def uneven_tables():
    """Rows of zeros, of one number, of one sign, close together far from zero, and of very unlike sizes."""

    def made_uneven(pair: tuple[np.ndarray, float]) -> np.ndarray:
        table, scale = pair[0].copy(), np.float32(pair[1])
        table[0], table[1], table[2] = 0, table[1, 0], -0.7
        table[3:40] = np.abs(table[3:40])
        table[40:60] = 5 + table[40:60] / 64
        table[60:70] *= np.float32(1e-6)
        table[70:80] *= np.float32(1e3)
        return (table * scale).astype(np.float32)

    shape = st.tuples(st.integers(130, 160), st.integers(4, 9))
    values = shape.flatmap(lambda s: hnp.arrays(np.float32, s, elements=st.floats(-1, 1, width=32)))
    return st.tuples(values, st.sampled_from([1e-30, 1e-6, 1.0, 1e30])).map(made_uneven)


def beyond_a_half():
    """Rows of ordinary size, and one number that a half cannot hold."""

    def with_outlier(pair: tuple[np.ndarray, float]) -> np.ndarray:
        table = pair[0].copy()
        table[7, 2] = pair[1]
        return table

    return st.tuples(tables(), st.sampled_from([65_504.0, -1e6, 1e30])).map(with_outlier)


EIGHT_BITS = [
    {"block": block, "symmetric": symmetric} for block in (0, 1, 3, 4) for symmetric in (True, False)
]
"""Every form of `int8_tables`; of the widths from 4 to 9 some are no multiple of the blocks."""


@settings(max_examples=50, deadline=None)
@given(st.one_of(tables(), uneven_tables(), beyond_a_half()), st.sampled_from(EIGHT_BITS))
def test_an_8_bit_table_is_off_by_half_a_step_at_most(table, form):
    quantized = int8_tables.quantize(table, **form)
    error = np.abs(quantized.restored().astype(np.float64) - table)
    assert (error <= quantized.largest_error()).all()
    assert quantized.codes.dtype == (np.int8 if form["symmetric"] else np.uint8)
    assert np.abs(quantized.codes.astype(int)).max() <= (127 if form["symmetric"] else 255)


@settings(max_examples=50, deadline=None)
@given(tables(), st.sampled_from([0, 1, 3, 4]))
def test_a_4_bit_table_is_off_by_half_a_step_at_most(table, block):
    quantized = int4.quantize(table, block)
    error = np.abs(quantized.restored().astype(np.float64) - table)
    assert (error <= quantized.largest_error()).all()


@settings(max_examples=50, deadline=None)
@given(tables())
def test_a_bfloat16_table_is_off_by_2_to_the_minus_8_at_most(table):
    normal = np.where(np.abs(table) < np.finfo(np.float32).tiny, 0, table)
    error = np.abs(normal.astype(ml_dtypes.bfloat16).astype(np.float64) - normal)
    assert (error <= fp16.RELATIVE_ERROR_BF16 * np.abs(normal)).all()


@settings(max_examples=50, deadline=None)
@given(tables())
def test_a_half_precision_table_is_off_by_2_to_the_minus_11_at_most(table):
    error = np.abs(table.astype(np.float16).astype(np.float64) - table)
    assert (error <= fp16.largest_error(table)).all()


def served(method: str, table: np.ndarray, folder, **own) -> np.ndarray:
    """All rows of `table` [N, D] as ONNX Runtime answers them after `method`, in float64."""
    graph = GRAPH_METHODS[method].apply(table_graph(table), METHODS[method](**own))
    return answer(graph, np.arange(len(table))[None], folder)[0].astype(np.float64)


def assert_as_good_as_the_better_of(plain: np.ndarray, evened: np.ndarray, error: np.ndarray) -> None:
    """Of the bounds [N, D] without and with scales of columns one holds, and the sum is the better one's."""
    assert (error <= np.maximum(plain, evened)).all()
    best = min(np.square(plain).sum(), np.square(evened).sum() / EVENED_WHEN_BETTER)
    assert np.square(error).sum() <= best


def column_scales(table: np.ndarray) -> np.ndarray:
    """The largest number of each column, [D], in float64; 1 for a column of zeros."""
    largest = np.abs(table).max(axis=0).astype(np.float64)
    return np.where(largest >= TINY, largest, 1.0)


def common_scale(table: np.ndarray) -> float:
    """1; where a half cannot hold `table`, the least power of two that brings it below 2^15."""
    largest = float(np.abs(table).max())
    return 1.0 if largest < 65_504 else 2.0 ** (np.floor(np.log2(largest)) - 14)


def by_block(values: np.ndarray, block: int, bound) -> np.ndarray:
    """`bound` of each block of columns (0: the whole row) of `values` [N, D], one number a row: [N, D]."""
    bounds, width = np.empty_like(values), values.shape[1]
    for at in range(0, width, block or width):
        bounds[:, at : at + (block or width)] = bound(values[:, at : at + (block or width)])[:, None]
    return bounds


def symmetric_bound(part: np.ndarray) -> np.ndarray:
    # 127 steps to each side, half a step; numbers too small for a scale become zeros.
    return np.abs(part).max(axis=1) * (1 / 254 + 4 * EPS) + 128 * TINY


def asymmetric_bound(part: np.ndarray, levels: int, smallest_scale: float) -> np.ndarray:
    half, smallest = 2.0**-10, 2.0**-24  # what a half rounds away in one direction
    low, high = part.min(axis=1), part.max(axis=1)
    least = np.abs(low) * half + smallest  # how far the least value may lie below `low`
    step = np.maximum((high - low + least) / levels * (1 + half) + smallest, smallest_scale)
    return step / 2 + 4 * EPS * (np.abs(low) + least + levels * step)


@pytest.mark.parametrize("form", EIGHT_BITS, ids=str)
@settings(max_examples=50, deadline=None)
@example(table=np.random.default_rng(0).uniform(-1, 1, (150, 9)).astype(np.float32))
@given(table=st.one_of(tables(), uneven_tables(), beyond_a_half()))
def test_8_bits_are_off_by_the_blocks_largest_over_254_or_its_span_over_510(table, form, folder):
    def bound(values: np.ndarray) -> np.ndarray:
        of_block = symmetric_bound if form["symmetric"] else partial(asymmetric_bound, **in_8_bits)
        return by_block(values, form["block"], of_block)

    in_8_bits = {"levels": 255, "smallest_scale": 2.0**-24}
    exact, columns = table.astype(np.float64), column_scales(table)
    common = 1.0 if form["symmetric"] else common_scale(table)
    error = np.abs(served("int8_tables", table, folder, **form) - exact)
    assert_as_good_as_the_better_of(
        bound(exact / common) * common, bound(exact / columns) * columns + TINY, error
    )


@settings(max_examples=50, deadline=None)
@example(table=np.random.default_rng(0).uniform(-1, 1, (150, 9)).astype(np.float32), block=0)
@given(table=st.one_of(tables(), beyond_a_half()), block=st.sampled_from([0, 1, 3, 4]))
def test_4_bits_are_off_by_the_blocks_span_over_30(table, block, folder):
    def bound(values: np.ndarray) -> np.ndarray:
        return by_block(values, block, partial(asymmetric_bound, levels=15, smallest_scale=2.0**-14))

    exact, columns, common = table.astype(np.float64), column_scales(table), common_scale(table)
    error = np.abs(served("int4_tables", table, folder, block=block) - exact)
    assert_as_good_as_the_better_of(
        bound(exact / common) * common, bound(exact / columns) * columns + TINY, error
    )


@pytest.mark.parametrize(
    ("method", "relative", "absolute"), [("fp16", 2.0**-11, 2.0**-25), ("bf16", 2.0**-8, 2.0**-134)]
)
@settings(max_examples=50, deadline=None)
@given(table=tables())
def test_16_bits_are_off_by_half_of_their_last_digit(method, relative, absolute, table, folder):
    exact = table.astype(np.float64)
    error = np.abs(served(method, table, folder) - exact)
    assert (error <= np.maximum(relative * np.abs(exact), absolute)).all()
