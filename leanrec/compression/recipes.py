"""Recipes: named sequences of methods. A new method is one file, and one line in `RECIPES`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

import onnx

from leanrec.compression.fp16 import FP16
from leanrec.compression.int8_mlp import INT8_MLP
from leanrec.compression.int8_tables import INT8_TABLES
from leanrec.compression.method import Method
from leanrec.errors import CompressionError
from leanrec.export.graph_file import graph_path, graphs_in, write_graph

BASELINE = "fp32"

RECIPES: dict[str, tuple[Method, ...]] = {
    BASELINE: (),
    "fp16": (FP16,),
    "int8_tables": (INT8_TABLES,),
    "int8_mlp": (INT8_MLP,),
    "int8": (INT8_TABLES, INT8_MLP),
}


def methods_of(recipe: str) -> tuple[Method, ...]:
    """The methods of a named recipe. Raises a CompressionError that offers the nearest name."""
    if recipe in RECIPES:
        return RECIPES[recipe]
    near = difflib.get_close_matches(recipe, RECIPES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(RECIPES)}"
    raise CompressionError(f"compression.recipes: there is no recipe {recipe!r}; {hint}")


def check_composition(methods: Sequence[Method]) -> None:
    """Raise a CompressionError when two methods would rewrite the same weights."""
    rewritten: dict[str, str] = {}
    for method in methods:
        for kind in sorted(method.rewrites):
            if kind in rewritten:
                raise CompressionError(
                    f"recipe {' -> '.join(m.name for m in methods)}: {rewritten[kind]} and "
                    f"{method.name} both rewrite the {kind} weights, which have one form; drop one of them"
                )
            rewritten[kind] = method.name


def cook(methods: Sequence[Method], graph: onnx.ModelProto) -> onnx.ModelProto:
    """`graph` with every method applied in turn."""
    check_composition(methods)
    for method in methods:
        graph = method.apply(graph)
    return graph


def write_compressed(recipe: str, graphs: Path, output: Path) -> None:
    """Apply a named recipe to both graphs in `graphs`; write them, laid out alike, into `output`."""
    methods = methods_of(recipe)
    for model, graph in graphs_in(graphs).items():
        write_graph(cook(methods, graph), graph_path(output, model))
