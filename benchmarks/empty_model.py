"""A model that computes nothing: what a request through Triton and its backend costs whatever is asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper
from tritonclient.utils import triton_to_np_dtype

from leanrec.export.graph_file import GRAPH_FILE
from leanrec.schema import TensorSpec
from leanrec.triton.model_configuration import ModelConfiguration
from leanrec.triton.staging import stage_model

EMPTY = "empty"


def stage_empty(models: Path, configuration: ModelConfiguration, answered: Mapping[str, str]) -> None:
    """Put its version 1 into the repository `models`, under the interface that `configuration` names.

    `answered`: output -> the input whose values it has, in its own data type.
    """
    stage_model(models, configuration, {})
    kinds = {tensor.name: _kind(tensor) for tensor in configuration.outputs}
    graph = helper.make_graph(
        [helper.make_node("Cast", [name], [output], to=kinds[output]) for output, name in answered.items()],
        configuration.name,
        [_value(tensor) for tensor in configuration.inputs],
        [_value(tensor) for tensor in configuration.outputs],
    )
    folder = models / configuration.name / "1"
    folder.mkdir()
    opset = [helper.make_opsetid("", 18)]
    onnx.save_model(helper.make_model(graph, opset_imports=opset, ir_version=10), str(folder / GRAPH_FILE))


def _kind(tensor: TensorSpec) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(triton_to_np_dtype(tensor.dtype))))


def _value(tensor: TensorSpec) -> onnx.ValueInfoProto:
    axes = [f"{tensor.name}_{i}" if size < 0 else size for i, size in enumerate(tensor.shape)]
    return helper.make_tensor_value_info(tensor.name, _kind(tensor), ["batch", *axes])
