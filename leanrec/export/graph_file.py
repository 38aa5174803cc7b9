"""ONNX graphs as files: written whole, read with one sentence when damaged.

Weights lie inside `model.onnx`. Protobuf cannot hold more than 2 GiB, so a larger model's weights lie beside
it in `model.onnx.data` (ONNX external data); ONNX Runtime and Triton find them there by themselves.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from leanrec.errors import ExportError
from leanrec.schema import MODELS, ModelSpec, TensorSpec

GRAPH_FILE = "model.onnx"
WEIGHTS_FILE = "model.onnx.data"
MAX_INLINE_BYTES = (1 << 31) - (1 << 24)
"""Weights above this lie beside the graph; the margin is for its nodes."""

CONTROL_FLOW = frozenset({"Loop", "If", "Scan"})
"""Operators that keep a graph from being optimized and batched; an export must hold none."""

DATA_TYPES = {"INT64": onnx.TensorProto.INT64, "FP32": onnx.TensorProto.FLOAT}


def graph_path(folder: Path, model: str) -> Path:
    """Where the graph of `model` (recommender or ranker) lies in a `graphs` folder."""
    return Path(folder) / model / GRAPH_FILE


def write_graph(graph: onnx.ModelProto, path: Path) -> None:
    """Write `graph` to `path`, the same bytes for the same graph; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if sum(len(tensor.raw_data) for tensor in graph.graph.initializer) <= MAX_INLINE_BYTES:
        path.write_bytes(graph.SerializeToString(deterministic=True))
    else:
        onnx.save(graph, path, save_as_external_data=True, location=WEIGHTS_FILE)


def read_graph(path: Path) -> onnx.ModelProto:
    """The graph at `path`, its weights loaded. Raises an ExportError when it is no whole ONNX graph."""
    try:
        graph = onnx.load(path)
        onnx.checker.check_model(path)
    except (OSError, ValueError, DecodeError, onnx.checker.ValidationError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(f"{path}: not a whole ONNX graph ({reason}); export the graphs again") from None
    return graph


def check_interface(graph: onnx.ModelProto, spec: ModelSpec, model: str) -> None:
    """Raise an ExportError unless `graph` has no control flow and exactly the tensors of `spec`."""
    flow = sorted(CONTROL_FLOW & {node.op_type for node in graph.graph.node})
    if flow:
        raise ExportError(
            f"{model}: the graph holds {', '.join(flow)}, which cannot be batched; write the module without "
            "loops and branches over tensors (a padded gather instead of EmbeddingBag)"
        )
    for kind, found, wanted in (
        ("inputs", graph.graph.input, spec.inputs(model)),
        ("outputs", graph.graph.output, spec.outputs(model)),
    ):
        seen = [_describe(value) for value in found]
        expected = [(t.name, int(DATA_TYPES[t.dtype]), _axes(t)) for t in wanted]
        if seen != expected:
            raise ExportError(f"{model}: the graph has the {kind} {seen}, but the spec says {expected}")


def graphs_in(folder: Path) -> dict[str, onnx.ModelProto]:
    """Both graphs of a `graphs` folder by name."""
    return {model: read_graph(graph_path(folder, model)) for model in MODELS}


def _describe(value: onnx.ValueInfoProto) -> tuple[str, int, tuple[int, ...]]:
    tensor = value.type.tensor_type
    axes = tuple(axis.dim_value if axis.HasField("dim_value") else -1 for axis in tensor.shape.dim)
    return value.name, tensor.elem_type, axes


def _axes(tensor: TensorSpec) -> tuple[int, ...]:
    return (-1, *tensor.shape)
