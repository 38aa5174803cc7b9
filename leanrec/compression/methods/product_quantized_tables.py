"""product_quantized_tables: a row as some bytes, each of which names a few columns' values in a codebook.

The D columns of a table are split into groups; of each group 256 typical values (centroids) are kept, and a
row holds for each group the number of the nearest one. No scale a row is needed, so a row of 64 numbers in 4
bits takes 32 bytes where int4_tables takes 36, and `bits` need not be whole. Codebooks are learnt by k-means
on rows spread over the table. A table too small for codebooks of its own is stored as int8_tables stores it.

Rows are restored after they are gathered, with operators that every ONNX Runtime of opset 18 has.

Error: no bound a row is stated before, but each group has the nearest of its 256 centroids. Source: Jegou,
Douze and Schmid 2011 (IEEE TPAMI 33); for embedding tables Kang et al. 2020 (arXiv:2002.08530).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from leanrec.compression.method import (
    GraphMethod,
    Requests,
    float_constants,
    gathers_of_tables,
    require,
)
from leanrec.compression.methods import int8_tables
from leanrec.compression.storage import Nodes, Stored, store_matrices
from leanrec.config.methods import ProductQuantizedTables

CENTROIDS = 256
"""A code is one byte."""
SAMPLE, ROUNDS = 32_768, 20
"""Rows that codebooks are learnt from, and how often centroids move."""
AT_ONCE = 512
"""Rows encoded at once: their distances to all centroids of a group stay in a processor's cache."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Codebook:
    """What the codes of a table of D columns mean; M groups, the widest of S columns."""

    centroids: np.ndarray
    """[M, 256, S] float32; what a narrower group lacks is zero."""
    places: np.ndarray
    """[D] int32: where each column is among the M * S restored ones."""

    @classmethod
    def learn(cls, table: np.ndarray, bits: float) -> Codebook:
        """Centroids for a `table` [N, D] float32 at `bits` a number; the same table gives the same ones."""
        rows = table[np.linspace(0, len(table) - 1, min(SAMPLE, len(table))).astype(np.int64)]
        width = table.shape[1]
        groups = np.array_split(np.arange(width), num_codes(width, bits))
        widest = max(len(group) for group in groups)
        centroids = np.zeros((len(groups), CENTROIDS, widest), np.float32)
        places = np.empty(width, np.int32)
        for number, group in enumerate(groups):
            centroids[number, :, : len(group)] = _k_means(rows[:, group])
            places[group] = number * widest + np.arange(len(group))
        return cls(centroids=centroids, places=places)

    def encode(self, table: np.ndarray) -> np.ndarray:
        """The nearest centroids of `table` [N, D] by group, [N, M] uint8."""
        num_groups, _, widest = self.centroids.shape
        padded = np.zeros((len(table), num_groups * widest), np.float32)
        padded[:, self.places] = table
        codes = np.empty((len(table), num_groups), np.uint8)
        for group, centroids in enumerate(self.centroids):
            codes[:, group] = _nearest(padded[:, group * widest : (group + 1) * widest], centroids)
        return codes

    def restored(self, codes: np.ndarray) -> np.ndarray:
        """[N, D] float32: what the graph makes of `codes` [N, M]."""
        values = self.centroids[np.arange(codes.shape[1]), codes]
        return np.asarray(values.reshape(len(codes), -1)[:, self.places])

    def stored(self, codes: np.ndarray) -> Stored:
        """A table of these `codes` [N, M] as it lies in a graph."""
        num_groups, _, widest = self.centroids.shape
        shared = {
            "codebook": self.centroids.reshape(-1, widest),
            "first": (CENTROIDS * np.arange(num_groups)).astype(np.int32),
            "rest": np.array([-1]),
        }
        if len(self.places) < num_groups * widest:
            shared["places"] = self.places
        return Stored(by_row={"codes": codes}, shared=shared, restore=_restore)


def num_codes(width: int, bits: float) -> int:
    """Bytes of a row of `width` numbers; at least one, and at most one a number."""
    return min(max(math.ceil(width * bits / 8 - 1e-9), 1), width)


def pays(num_rows: int, width: int, settings: ProductQuantizedTables) -> bool:
    """Whether a table is large enough: codes and codebooks take fewer bytes than 8 bits would."""
    num_groups = num_codes(width, settings.bits)
    codebooks = 4 * CENTROIDS * num_groups * -(-width // num_groups)
    return num_rows >= settings.min_rows and num_rows * num_groups + codebooks < num_rows * (width + 4)


def rewrite(graph: onnx.ModelProto, settings: ProductQuantizedTables, requests: Requests) -> onnx.ModelProto:
    """Store every gathered table as codes, or in 8 bits where it is too small for that."""
    tables = gathers_of_tables(graph.graph)
    require(tables, "product_quantized_tables", "gathered table")
    values = {name: numpy_helper.to_array(tensor) for name, tensor in float_constants(graph.graph).items()}
    store_matrices(graph.graph, {name: _stored(values[name], settings) for name in tables})
    return graph


def _stored(table: np.ndarray, settings: ProductQuantizedTables) -> Stored:
    num_rows, width = table.shape
    if not pays(num_rows, width, settings):
        return int8_tables.store(table)
    codebook = Codebook.learn(table, settings.bits)
    return codebook.stored(codebook.encode(table))


def _k_means(rows: np.ndarray) -> np.ndarray:
    """256 centroids of `rows` [N, S] (Lloyd 1982), some of them equal where there are fewer rows."""
    random = np.random.default_rng(0)
    centroids = rows[random.permutation(len(rows))[:CENTROIDS]]
    centroids = centroids[np.arange(CENTROIDS) % len(centroids)].astype(np.float64)
    for _ in range(ROUNDS):
        nearest = _nearest(rows, centroids.astype(np.float32))
        sizes = np.bincount(nearest, minlength=CENTROIDS)[:, None]
        sums = np.stack([np.bincount(nearest, column, CENTROIDS) for column in rows.T], axis=1)
        centroids = np.where(sizes > 0, sums / np.maximum(sizes, 1), centroids)
    return centroids.astype(np.float32)


def _nearest(rows: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The number of the nearest centroid of each row, [N] uint8."""
    weights = np.concatenate([-2 * centroids.T, np.square(centroids).sum(axis=1)[None]])
    found = np.empty(len(rows), np.uint8)
    for start in range(0, len(rows), AT_ONCE):
        some = rows[start : start + AT_ONCE]
        distances = np.concatenate([some, np.ones((len(some), 1), np.float32)], axis=1) @ weights
        found[start : start + AT_ONCE] = distances.argmin(axis=1)
    return found


def _restore(nodes: Nodes, parts: dict[str, str]) -> str:
    codes = nodes.add("Add", nodes.add("Cast", parts["codes"], to=TensorProto.INT32), parts["first"])
    values = nodes.add("Gather", parts["codebook"], codes, axis=0)
    shape = nodes.add("Concat", nodes.add("Shape", codes, end=-1), parts["rest"], axis=0)
    flat = nodes.add("Reshape", values, shape)
    return nodes.add("Gather", flat, parts["places"], axis=-1) if "places" in parts else flat


PRODUCT_QUANTIZED_TABLES = GraphMethod(
    name="product_quantized_tables",
    rewrite=rewrite,
)
