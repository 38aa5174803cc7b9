"""factorize_tables: a gathered table E [N, D] as A [N, r] times B [r, D]; rows of A are gathered.

A and B come from the truncated singular value decomposition, the best there is of that rank (Eckart and Young
1936); r is the least that keeps `energy` of the table's squared weights. A is a table like any other, so
int8_tables or int4_tables may follow. A table stays whole where A and B would not be smaller.

Error: the root of the squared singular values left out is the Frobenius norm of E - AB.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import numpy_helper

from leanrec.compression.method import (
    GraphMethod,
    Requests,
    float_constants,
    gathers_of_tables,
    require,
)
from leanrec.compression.storage import Nodes, Stored, store_matrices
from leanrec.config.methods import FactorizeTables
from leanrec.errors import CompressionError


def factorize(table: np.ndarray, settings: FactorizeTables) -> tuple[np.ndarray, np.ndarray]:
    """A [N, r] and B [r, D] of `table` [N, D], both float32."""
    u, s, v = np.linalg.svd(table.astype(np.float64), full_matrices=False)
    rank = settings.rank
    if rank is None:
        kept = np.cumsum(s**2) / max(float(np.sum(s**2)), np.finfo(np.float64).tiny)
        rank = 1 + int(np.searchsorted(kept, settings.energy))
    left = u[:, :rank] * s[:rank]
    return left.astype(np.float32), v[:rank].astype(np.float32)


def saves(num_rows: int, width: int, rank: int) -> bool:
    """Whether factors of `rank` are clearly smaller than the table."""
    return rank * (num_rows + width) < 0.9 * num_rows * width


def require_rank(rank: int, widest: int) -> None:
    """Raise a CompressionError when `rank` is above the width of the widest table."""
    if rank > widest:
        raise CompressionError(
            f"factorize_tables: rank {rank} is above the width {widest} of the widest table"
        )


def require_smaller(tables: Collection[object]) -> None:
    """Raise a CompressionError when there are no `tables` that would become smaller."""
    if not tables:
        raise CompressionError(
            "factorize_tables: no table would become smaller; lower energy or rank, or leave this method out"
        )


def rewrite(graph: onnx.ModelProto, settings: FactorizeTables, requests: Requests) -> onnx.ModelProto:
    """Store every gathered table as two factors where that is smaller."""
    tables = gathers_of_tables(graph.graph)
    require(tables, "factorize_tables", "gathered table")
    values = {name: numpy_helper.to_array(tensor) for name, tensor in float_constants(graph.graph).items()}
    if settings.rank is not None:
        require_rank(settings.rank, max(values[name].shape[1] for name in tables))
    stored = {}
    for name in tables:
        left, right = factorize(values[name], settings)
        if saves(len(left), right.shape[1], len(right)):
            stored[name] = Stored(by_row={"left": left}, shared={"right": right}, restore=_restore)
    require_smaller(stored)
    store_matrices(graph.graph, stored)
    return graph


def _restore(nodes: Nodes, parts: dict[str, str]) -> str:
    return nodes.add("MatMul", parts["left"], parts["right"])


FACTORIZE_TABLES = GraphMethod(
    name="factorize_tables",
    rewrite=rewrite,
)
