"""From the plain module to two ONNX graphs: the fused recommender, and the ranker alone.

Both are made by torch.export (dynamo), with the batch and the last input's length left open, and hold
their weights. A graph that loops, or that does not answer as the module does, is refused.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from leanrec.config import ReleaseSettings
from leanrec.errors import ExportError
from leanrec.evaluation.protocol import Protocol, load_protocol
from leanrec.export.golden import GoldenFacts, GoldenRequests, save_golden
from leanrec.export.runtime import GraphSession, Tensors
from leanrec.features.rows import stack_user_rows, unknown_user
from leanrec.files import atomic_directory, size_in_bytes, write_json
from leanrec.journal import step
from leanrec.models.recommender import Recommender, load_model
from leanrec.schema import MODELS, RANKER, RECOMMENDER, ModelSpec

GRAPH_FILE = "model.onnx"
SPEC_FILE = "spec.json"
ITEMS_FILE = "items.parquet"

OPSET = 20
"""ONNX operator set: what ONNX Runtime has read since 1.17 (Triton 24.03)."""

MAX_BATCH = 4096
MAX_LENGTH = 1 << 20
NUM_GOLDEN_CANDIDATES = 50
UNCOMPRESSED = "fp32"
CONTROL_FLOW = {"Loop", "If", "Scan"}


@step("export_graphs")
def export_graphs(
    settings: ReleaseSettings, *, model: Path, features: Path, training_set: Path, output: Path
) -> dict[str, Any]:
    """Write the `graphs` folder: both graphs in float32, their tensors, the item table, golden requests.

    Args:
        settings: how many golden requests, and how far the graphs may be from the module.
        model: artifact of the trained model.
        features: artifact with the item table.
        training_set: file whose test users become golden requests.
        output: folder to write, whole or not at all.

    Returns:
        Bytes of both graphs and the greatest score difference seen.

    Raises:
        ExportError: a graph has control flow or does not answer as the module does.
    """
    recommender = load_model(model)
    spec = recommender.spec
    golden = make_golden(recommender, load_protocol(features, training_set), settings.num_golden)
    modules: dict[str, nn.Module] = {RECOMMENDER: recommender, RANKER: recommender.ranker().eval()}
    with atomic_directory(output) as folder:
        differences = []
        for name in MODELS:
            path = folder / name / GRAPH_FILE
            path.parent.mkdir()
            export_graph(modules[name], spec, name, path)
            differences.append(check_graph(path, name, golden[name], settings.max_score_difference))
        write_json(folder / SPEC_FILE, asdict(spec))
        _write_items(recommender, features, folder / ITEMS_FILE)
        facts = GoldenFacts(
            num_golden=len(golden[RECOMMENDER].inputs["user_index"]),
            recipe=UNCOMPRESSED,
            max_score_difference=settings.max_score_difference,
            how="release.max_score_difference: the same float32 operations in another order",
        )
        save_golden(folder, golden, facts)
        return {
            "bytes": sum(size_in_bytes(folder / name / GRAPH_FILE) for name in MODELS),
            "max_score_difference": max(differences),
        }


def export_graph(module: nn.Module, spec: ModelSpec, name: str, path: Path) -> None:
    """Write `module` as the graph `name` (`recommender` or `ranker`) to `path`.

    Its inputs and outputs are exactly those of `spec`; the batch and the length of the last input are open.
    """
    example = _example(spec, name)
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    length = torch.export.Dim("length", min=1, max=MAX_LENGTH)
    shapes: dict[str, dict[int, Any]] = {key: {0: batch} for key in example}
    shapes[next(reversed(example))][1] = length
    with _quietly():
        program = torch.onnx.export(
            module,
            tuple(example.values()),
            input_names=list(example),
            output_names=[tensor.name for tensor in spec.outputs(name)],
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise ExportError(f"graph {name}: torch.onnx gave no program; see the log above")
    graph = program.model_proto
    _refuse_control_flow(graph, name)
    onnx.checker.check_model(graph)
    onnx.save_model(_without_traces(graph), str(path))


def check_graph(path: Path, name: str, golden: GoldenRequests, bound: float) -> float:
    """Run the graph on its golden requests; the greatest score difference from the module's answers.

    Raises an ExportError when it is above `bound`, a NaN included.
    """
    outputs = GraphSession(path).run(golden.inputs)
    difference = score_difference(name, golden.outputs, outputs)
    if not difference <= bound:
        raise ExportError(
            f"graph {name}: its scores differ from the trainer's by up to {difference:.3g}, bound {bound:g}; "
            "an operator was exported wrongly"
        )
    return difference


def score_difference(name: str, wanted: Tensors, found: Tensors) -> float:
    """The greatest |difference| of scores [B, K], compared item by item; NaN when a score is.

    A recommender may order equal scores either way, and at the end of a list the last of several equal
    ones may fall out: an item that only one of two lists holds counts with its distance to the other
    list's last score.
    """
    if name == RANKER:
        return float(np.abs(wanted["score"] - found["score"]).max())
    greatest = 0.0
    rows = zip(wanted["item_index"], wanted["score"], found["item_index"], found["score"], strict=True)
    for items, scores, other_items, other_scores in rows:
        if not np.isfinite(other_scores).all():
            return float("nan")
        theirs = dict(zip(other_items.tolist(), other_scores.tolist(), strict=True))
        ours = dict(zip(items.tolist(), scores.tolist(), strict=True))
        last, other_last = float(scores[-1]), float(other_scores[-1])
        missing = [ours[item] - other_last for item in ours.keys() - theirs.keys()]
        extra = [theirs[item] - last for item in theirs.keys() - ours.keys()]
        common = [ours[item] - theirs[item] for item in ours.keys() & theirs.keys()]
        greatest = max(greatest, *(abs(value) for value in (*missing, *extra, *common)))
    return greatest


@torch.inference_mode()
def make_golden(recommender: Recommender, protocol: Protocol, num_golden: int) -> dict[str, GoldenRequests]:
    """`num_golden` requests for each graph with the module's answers: an unknown user, then test users.

    The unknown user has no past at all; the others are spread evenly over the protocol's users.
    """
    spec = recommender.spec
    num_users = len(protocol.requests["user_index"])
    picked = np.unique(np.linspace(0, num_users - 1, max(1, min(num_golden, num_users + 1) - 1)).astype(int))
    unknown = stack_user_rows([unknown_user(spec)], spec)
    seen = protocol.requests["seen"]
    unknown["seen"] = np.zeros((1, seen.shape[1]), np.int64)
    requests = {key: np.concatenate([unknown[key], protocol.requests[key][picked]]) for key in unknown}
    answered = recommender(**_as_torch(requests))
    row = {tensor.name: requests[tensor.name] for tensor in spec.user_inputs()}
    candidates = _golden_candidates(len(row["user_index"]), spec.num_items)
    ranker_inputs = {**row, "candidates": candidates}
    ranked = recommender.ranker().eval()(**_as_torch(ranker_inputs))
    return {
        RECOMMENDER: GoldenRequests(inputs=requests, outputs=_by_name(spec, RECOMMENDER, answered)),
        RANKER: GoldenRequests(inputs=ranker_inputs, outputs=_by_name(spec, RANKER, ranked)),
    }


def _golden_candidates(num_requests: int, num_items: int) -> np.ndarray:
    """[G, C] item indices, all over the catalogue, the unknown item among them."""
    random = np.random.default_rng(0)
    return random.integers(0, num_items, size=(num_requests, min(NUM_GOLDEN_CANDIDATES, num_items)))


def _by_name(spec: ModelSpec, name: str, outputs: tuple[torch.Tensor, ...]) -> Tensors:
    names = [tensor.name for tensor in spec.outputs(name)]
    return {key: value.numpy() for key, value in zip(names, outputs, strict=True)}


def _as_torch(tensors: Tensors) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in tensors.items()}


def _example(spec: ModelSpec, name: str) -> dict[str, torch.Tensor]:
    """Inputs to trace with: two users, so that no dimension is taken for a constant 1."""
    kinds = {"INT64": torch.int64, "FP32": torch.float32}
    return {
        tensor.name: torch.zeros(
            (2, *[3 if size < 0 else size for size in tensor.shape]), dtype=kinds[tensor.dtype]
        )
        for tensor in spec.inputs(name)
    }


def _refuse_control_flow(graph: onnx.ModelProto, name: str) -> None:
    found = sorted({node.op_type for node in graph.graph.node} & CONTROL_FLOW)
    if found:
        raise ExportError(
            f"graph {name}: it has {', '.join(found)}, which is slow and which TensorRT refuses; "
            "write that part of the model with gather, mask and sum"
        )


def _without_traces(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph without the exporter's notes on source lines: they carry paths and differ by machine."""
    for node in graph.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*graph.graph.input, *graph.graph.output, *graph.graph.initializer):
        value.ClearField("metadata_props")
    graph.graph.ClearField("value_info")
    graph.graph.ClearField("metadata_props")
    graph.ClearField("metadata_props")
    graph.ClearField("functions")
    return graph


def _write_items(recommender: Recommender, features: Path, path: Path) -> None:
    """The item table with each item's retrieval vector, by which reasons are found."""
    table = pq.read_table(Path(features) / ITEMS_FILE).sort_by("item_index")
    vectors = recommender.item_vectors.numpy()
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    pq.write_table(table.append_column("embedding", flat.cast(pa.list_(pa.float32()))), path)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """The exporter tells at length what it could not use; none of it is about this model."""
    noisy = logging.getLogger("torch.onnx")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        noisy.setLevel(level)
