"""prune_rows: the rows of a table that are looked up least become one row that they share, their mean.

The graph looks up where a row went (two bytes a row), then the row itself, among the rows that stayed.
Those are a table like any other, so int8_tables or int4_tables may follow. Lookups are counted while the
graph answers requests of the train split; rows never looked up go first, then by rising count. A row that is
looked up more often than its table's mean always stays.
"""

from __future__ import annotations

from collections.abc import Collection

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
from leanrec.compression.observing import count_lookups
from leanrec.compression.storage import Nodes, Stored, bytes_of_places, narrowest, store_matrices
from leanrec.config.methods import PruneRows
from leanrec.errors import CompressionError

MIN_ROWS = 128
"""Smaller tables stay whole."""


def prune(table: np.ndarray, counts: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """The rows kept [M, D], the last one shared by those that went, and where each row is now [N] int32."""
    order = np.argsort(counts, kind="stable")
    going = order[: int(share * len(table))]
    going = np.sort(going[counts[going] <= counts.mean()])
    staying = np.setdiff1d(np.arange(len(table)), going)
    place = np.full(len(table), len(staying), np.int32)
    place[staying] = np.arange(len(staying))
    weight = counts[going] + 1.0
    shared = (weight[:, None] * table[going]).sum(axis=0, keepdims=True) / max(1.0, weight.sum())
    return np.concatenate([table[staying], shared]).astype(np.float32), place


def saves(num_rows: int, width: int, num_kept: int) -> bool:
    """Whether so many rows, the shared one included, and where each row went are smaller than the table."""
    return 4 * num_kept * width + bytes_of_places(num_rows, num_kept - 1) < 4 * num_rows * width


def require_tables(tables: Collection[object]) -> None:
    """Raise a CompressionError when there are no `tables` of enough rows."""
    require(tables, "prune_rows", f"gathered table of {MIN_ROWS} rows and")


def require_smaller(tables: Collection[object]) -> None:
    """Raise a CompressionError when there are no `tables` that would become smaller."""
    if not tables:
        raise CompressionError(
            "prune_rows: no table would become smaller; raise share, or leave this method out"
        )


def rewrite(graph: onnx.ModelProto, settings: PruneRows, requests: Requests) -> onnx.ModelProto:
    """Prune the rows of every gathered table with enough of them."""
    rows = {name: tensor.dims[0] for name, tensor in float_constants(graph.graph).items()}
    tables = {name: nodes for name, nodes in gathers_of_tables(graph.graph).items() if rows[name] >= MIN_ROWS}
    require_tables(tables)
    values = {name: numpy_helper.to_array(tensor) for name, tensor in float_constants(graph.graph).items()}
    counts = count_lookups(graph, requests)
    stored = {}
    for name in tables:
        # Tables of one vocabulary have as many rows, and lose the same ones: where they went is held once.
        alike = np.sum([counts[other] for other in tables if rows[other] == rows[name]], axis=0)
        kept, place = prune(values[name], alike, settings.share)
        if saves(rows[name], kept.shape[1], len(kept)):
            stored[name] = Stored(by_row={"place": narrowest(place)}, shared={"kept": kept}, restore=_restore)
    require_smaller(stored)
    store_matrices(graph.graph, stored)
    return graph


def _restore(nodes: Nodes, parts: dict[str, str]) -> str:
    place = nodes.add("Cast", parts["place"], to=TensorProto.INT32)
    return nodes.add("Gather", parts["kept"], place, axis=0)


PRUNE_ROWS = GraphMethod(
    name="prune_rows",
    rewrite=rewrite,
)
