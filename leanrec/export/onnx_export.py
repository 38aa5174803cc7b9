"""A served module as a small, clean, reproducible ONNX graph."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from leanrec.errors import ExportError
from leanrec.schema import ModelSpec, TensorSpec

OPSET = 18
"""The operator set of every graph; Triton's ONNX Runtime backend has served it since release 23.04."""

IR_VERSION = 10
"""The file format's version; ONNX Runtime 1.18 and later read it."""

PRODUCER = "leanrec"
_EXAMPLE_BATCH, _EXAMPLE_LENGTH = 2, 3


def export_module(module: nn.Module, spec: ModelSpec, model: str) -> onnx.ModelProto:
    """`module` as a graph with the served tensors of `model`; batch and the last input's length vary.

    Constants are folded, equal constants are held once, and nothing of the exporting machine (source lines,
    folders) stays in it: the same weights give the same bytes. Raises an ExportError when torch refuses.
    """
    inputs = spec.inputs(model)
    try:
        graph = trace(
            module,
            tuple(_example(tensor) for tensor in inputs),
            [tensor.name for tensor in inputs],
            [tensor.name for tensor in spec.outputs(model)],
        )
    except (RuntimeError, torch.onnx.OnnxExporterError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ExportError(f"{model}: torch cannot turn the module into a graph ({reason})") from error
    clean(graph, spec, model)
    return graph


def trace(
    module: nn.Module, example: tuple[Tensor, ...], inputs: list[str], outputs: list[str]
) -> onnx.ModelProto:
    """`module` as a graph in which the batch and the last input's length vary; raises torch's own errors."""
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    shapes: list[dict[int, object]] = [{0: batch} for _ in inputs]
    shapes[-1] = {0: batch, 1: length}
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            example,
            dynamo=True,
            dynamic_shapes=tuple(shapes),
            input_names=inputs,
            output_names=outputs,
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto  # made anew at each access
    _gather_plainly(graph.graph)
    _reset_as_torch_does(graph.graph)
    graph.ir_version = IR_VERSION
    return graph


def clean(graph: onnx.ModelProto, spec: ModelSpec, model: str) -> None:
    """Bring `graph` into its one canonical form, in place."""
    share_equal_constants(graph.graph)
    _forget_origin(graph)
    _state_shapes(graph.graph, spec, model)
    graph.producer_name, graph.producer_version = PRODUCER, ""


def _gather_plainly(graph: onnx.GraphProto) -> None:
    """Turn GatherND over single row numbers into Gather, the operator that table methods look for."""
    producers = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "GatherND" or node.input[0] not in constants or any(a.i for a in node.attribute):
            continue
        wrapped = producers.get(node.input[1])
        if wrapped is None or wrapped.op_type != "Unsqueeze" or wrapped.input[1] not in constants:
            continue
        if numpy_helper.to_array(constants[wrapped.input[1]]).tolist() != [-1]:
            continue
        node.op_type = "Gather"
        node.input[1] = wrapped.input[0]
        del node.attribute[:]
        node.attribute.append(onnx.helper.make_attribute("axis", 0))
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for node in [n for n in graph.node if not used & set(n.output)]:
        graph.node.remove(node)


def _reset_as_torch_does(graph: onnx.GraphProto) -> None:
    """Let a GRU multiply before it resets, as torch does; torch's exporter says the contrary (#189225)."""
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "GRU" and attribute.name == "linear_before_reset":
                attribute.i = 1


def share_equal_constants(graph: onnx.GraphProto) -> None:
    """Let all readers of equal constants read one of them, and drop the others and the unused, in place."""
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    renamed = {}
    for tensor in graph.initializer:
        value = numpy_helper.to_array(tensor)
        key = (tensor.data_type, tuple(tensor.dims), value.tobytes())
        renamed[tensor.name] = first.setdefault(key, tensor.name)
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)
    _drop_unused_constants(graph)


def _drop_unused_constants(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)


def _forget_origin(graph: onnx.ModelProto) -> None:
    """Drop source lines and tensor notes; `value_info` too, or `quantize_dynamic` stumbles over it."""
    del graph.metadata_props[:]
    del graph.graph.metadata_props[:]
    del graph.graph.value_info[:]
    graph.doc_string = graph.graph.doc_string = ""
    parts = (graph.graph.node, graph.graph.initializer, graph.graph.input, graph.graph.output)
    for part in parts:
        for entry in part:
            del entry.metadata_props[:]
            entry.doc_string = ""


def _state_shapes(graph: onnx.GraphProto, spec: ModelSpec, model: str) -> None:
    """Name the axes that vary, and fix those that `spec` fixes."""
    for values, tensors in ((graph.input, spec.inputs(model)), (graph.output, spec.outputs(model))):
        for value, tensor in zip(values, tensors, strict=True):
            axes: list[str | int] = ["batch", *("length" if axis < 0 else axis for axis in tensor.shape)]
            value.CopyFrom(
                onnx.helper.make_tensor_value_info(tensor.name, value.type.tensor_type.elem_type, axes)
            )


def _example(tensor: TensorSpec) -> Tensor:
    shape = (_EXAMPLE_BATCH, *(_EXAMPLE_LENGTH if axis < 0 else axis for axis in tensor.shape))
    return torch.ones(shape, dtype=torch.int64 if tensor.dtype == "INT64" else torch.float32)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and its notes on missing optional packages off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
