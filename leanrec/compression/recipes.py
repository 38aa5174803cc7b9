"""Recipes applied: model methods, export, graph methods, and both graphs as files."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import onnx
import torch

from leanrec.compression.compacting import compact
from leanrec.compression.method import Requests, no_requests
from leanrec.compression.methods import GRAPH_METHODS, MODEL_METHODS
from leanrec.compression.source import CompressionSource
from leanrec.compression.whole_tables import restore_small_tables
from leanrec.config.methods import GRAPH, MODEL
from leanrec.config.recipes import BASELINE, RECIPES, Recipe
from leanrec.export.graph_file import graph_path, graphs_in, write_graph
from leanrec.export.graphs import INDEX_FILE, export_graph
from leanrec.export.item_index import index_as
from leanrec.files import read_json
from leanrec.models.recommender import Recommender
from leanrec.schema import MODELS

__all__ = ["BASELINE", "RECIPES", "change_model", "cook", "write_compressed"]


def write_compressed(recipe: Recipe, source: CompressionSource, output: Path) -> None:
    """Apply `recipe` to what `source` holds; write both graphs, laid out as there, into `output`.

    The same source and recipe give the same bytes. Raises a CompressionError when a method cannot be applied.
    """
    model = change_model(recipe, source)
    if model is not None:
        index = source.graphs / INDEX_FILE
        index_as(model, read_json(index) if index.exists() else None)
    exported = graphs_in(source.graphs) if model is None else {m: export_graph(model, m) for m in MODELS}
    for name, graph in exported.items():
        write_graph(cook(recipe, graph, partial(source.requests, name)), graph_path(output, name))


def change_model(recipe: Recipe, source: CompressionSource) -> Recommender | None:
    """The trained model after the model methods of `recipe`, items frozen; None when it has no such method.

    Recipes that begin with the same steps share them through `source.changed`.
    """
    done: list[str] = []
    model: Recommender | None = None
    for step in recipe.of_kind(MODEL):
        done.append(json.dumps({step.method: step.settings}, sort_keys=True))
        steps = " -> ".join(done)
        if steps not in source.changed:
            before = copy.deepcopy(source.recommender if model is None else model)
            with _reproducible():
                changed = MODEL_METHODS[step.method].change(before, step.parsed(), source)
                source.changed[steps] = changed.freeze_items().eval()
        model = source.changed[steps]
    return model


@contextmanager
def _reproducible() -> Iterator[None]:
    """Leave torch's random state as it was, and let sums run in one order.

    One thread: with several, the library that multiplies splits long sums as the machine's load allows.
    """
    before, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.set_num_threads(threads)


def cook(recipe: Recipe, graph: onnx.ModelProto, requests: Requests = no_requests) -> onnx.ModelProto:
    """`graph` with every graph method of `recipe` applied in turn."""
    for step in recipe.of_kind(GRAPH):
        graph = GRAPH_METHODS[step.method].apply(graph, step.parsed(), requests)
    if recipe.of_kind(GRAPH):
        restore_small_tables(graph.graph)
        compact(graph)
    return graph
