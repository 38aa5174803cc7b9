"""mixed_tables: each gathered table in the fewest bits that the scores bear, hot rows in more than cold ones.

Four forms are tried of every table, one table at a time, on one half of the requests: 16 bits; 8 bits; 8
bits for the `hot_share` of rows that are looked up most and 4 for the others; 4 bits. What a form does to
the answers is its error: the root mean square of their change, in units of their own spread. Errors of
different tables are taken as independent, so their squares add up. From 16 bits everywhere, the table whose
next form saves most bytes for its error is narrowed, again and again, while the sum stays below
`max_error`. The other half of the requests must then show no more than that, or the last steps are taken
back.

Source: sensitivity by part and a greedy choice, as in HAWQ (Dong et al. 2019, arXiv:1905.03696); more bits
for hot rows, as in mixed-precision embeddings with a cache (Yang et al. 2020, arXiv:2010.11305).
"""

from __future__ import annotations

from collections.abc import Callable
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
from leanrec.compression.methods import int4, int8_tables
from leanrec.compression.methods.fp16 import widened
from leanrec.compression.observing import count_lookups, observe
from leanrec.compression.storage import Nodes, Stored, narrowest, store_matrices
from leanrec.config.methods import MixedTables
from leanrec.errors import CompressionError
from leanrec.export.runtime import Tensors, rows_of

MIN_HOT_ROWS = 64
"""Tables with fewer hot rows than this are not split: the map of rows would cost what it saves."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Form:
    """One way to store one table."""

    stored: Stored
    num_bytes: int
    error: float
    """Root mean square of the change of the answers when this table alone has this form."""


def rewrite(graph: onnx.ModelProto, settings: MixedTables, requests: Requests) -> onnx.ModelProto:
    """Store every gathered table in the form that its sensitivity allows."""
    tables = gathers_of_tables(graph.graph)
    require(tables, "mixed_tables", "gathered table")
    values = {name: numpy_helper.to_array(tensor) for name, tensor in float_constants(graph.graph).items()}
    given = requests()
    counts = count_lookups(graph, lambda: given)
    half = len(next(iter(given.values()))) // 2
    tried, held_out = rows_of(given, slice(0, half)), rows_of(given, slice(half, None))
    measure = _measure(graph, tried)
    forms: dict[str, list[Form]] = {}
    for name in sorted(tables):
        forms[name] = [
            Form(stored=stored, num_bytes=_bytes_of(stored), error=measure({name: stored}))
            for stored in _forms_of(values[name], counts[name], settings)
        ]
    check = _measure(graph, held_out)
    chosen = narrow(forms, settings.max_error)
    while chosen:
        stored = {name: forms[name][choice].stored for name, choice in chosen[-1].items()}
        if check(stored) <= settings.max_error:
            store_matrices(graph.graph, stored)
            return graph
        chosen.pop()
    raise CompressionError(
        "mixed_tables: even the widest forms change the answers by more than max_error "
        f"{settings.max_error:g} of their spread; raise it, or leave this method out"
    )


def narrow(forms: dict[str, list[Form]], max_error: float) -> list[dict[str, int]]:
    """The choices on the way from the widest forms to the narrowest that `max_error` allows.

    `forms` are by table, each from wide to narrow. A choice is the place of a form for each table; the last
    one is the narrowest. Empty when the widest forms are beyond the bound.
    """
    now = dict.fromkeys(forms, 0)

    def squared(choice: dict[str, int]) -> float:
        return sum(forms[name][place].error ** 2 for name, place in choice.items())

    if squared(now) > max_error**2:
        return []
    way = [dict(now)]
    while True:
        steps = []
        for name, place in now.items():
            for further in range(place + 1, len(forms[name])):
                saved = forms[name][place].num_bytes - forms[name][further].num_bytes
                added = max(forms[name][further].error ** 2 - forms[name][place].error ** 2, 1e-30)
                if saved > 0 and squared({**now, name: further}) <= max_error**2:
                    steps.append((saved / added, name, further))
        if not steps:
            return way
        _, name, further = max(steps)
        now[name] = further
        way.append(dict(now))


def num_hot(num_rows: int, settings: MixedTables) -> int:
    """How many of a table's rows would be wider than the others; 0 where it is not split."""
    hot = int(settings.hot_share * num_rows)
    return hot if hot >= MIN_HOT_ROWS else 0


def split(table: np.ndarray, counts: np.ndarray, hot_rows: int, block: int) -> Stored:
    """`table` [N, D] with the `hot_rows` rows of the largest `counts` [N] in 8 bits, the others in 4."""
    order = np.argsort(-counts, kind="stable")
    hot, cold = np.sort(order[:hot_rows]), np.sort(order[hot_rows:])
    place = np.zeros(len(table), np.int32)
    place[hot], place[cold] = np.arange(len(hot)), len(hot) + np.arange(len(cold))
    parts = {
        "hot": int8_tables.store(table[hot]),
        "cold": int4.store(table[cold], block),
    }
    shared = {"first": np.array(len(hot), np.int32), "zero": np.array(0, np.int32), "axis": np.array([-1])}
    for side, stored in parts.items():
        shared |= {f"{side}/{part}": value for part, value in {**stored.by_row, **stored.shared}.items()}

    def restore(nodes: Nodes, names: dict[str, str]) -> str:
        where = nodes.add("Cast", names["place"], to=TensorProto.INT32)
        is_hot = nodes.add("Less", where, names["first"])
        in_hot = nodes.add("Where", is_hot, where, names["zero"])
        in_cold = nodes.add("Where", is_hot, names["zero"], nodes.add("Sub", where, names["first"]))
        rows = {}
        for side, index in (("hot", in_hot), ("cold", in_cold)):
            form = parts[side]
            of_side = {part: names[f"{side}/{part}"] for part in form.shared}
            for part in form.by_row:
                of_side[part] = nodes.add("Gather", names[f"{side}/{part}"], index, axis=0)
            rows[side] = form.restore(nodes, of_side)
        return nodes.add("Where", nodes.add("Unsqueeze", is_hot, names["axis"]), rows["hot"], rows["cold"])

    return Stored(by_row={"place": narrowest(place)}, shared=shared, restore=restore)


def _forms_of(table: np.ndarray, counts: np.ndarray, settings: MixedTables) -> list[Stored]:
    """From wide to narrow."""
    half = table.astype(np.float16)
    forms = [] if not np.isfinite(half).all() else [Stored(by_row={"half": half}, restore=widened)]
    forms.append(int8_tables.store(table))
    hot = num_hot(len(table), settings)
    if hot:
        forms.append(split(table, counts, hot, settings.block))
    forms.append(int4.store(table, settings.block))
    return forms


def _bytes_of(stored: Stored) -> int:
    return sum(value.nbytes for value in (*stored.by_row.values(), *stored.shared.values()))


def _measure(graph: onnx.ModelProto, requests: Tensors) -> Callable[[dict[str, Stored]], float]:
    """What tells how far the answers move when tables are stored in another form."""
    names = [
        value.name for value in graph.graph.output if value.type.tensor_type.elem_type == TensorProto.FLOAT
    ]
    before = _answers(graph, names, requests)

    def measure(stored: dict[str, Stored]) -> float:
        changed = onnx.ModelProto()
        changed.CopyFrom(graph)
        store_matrices(changed.graph, stored)
        after = _answers(changed, names, requests)
        moved = [
            np.sqrt(np.square(after[name] - before[name]).mean()) / max(float(before[name].std()), 1e-12)
            for name in names
        ]
        return float(max(moved))

    return measure


def _answers(graph: onnx.ModelProto, names: list[str], requests: Tensors) -> dict[str, np.ndarray]:
    seen = list(observe(graph, names, requests))
    return {name: np.concatenate([part[name] for part in seen]).astype(np.float64) for name in names}


MIXED_TABLES = GraphMethod(
    name="mixed_tables",
    rewrite=rewrite,
)
