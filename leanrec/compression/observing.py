"""What happens inside a graph while it answers requests: values of intermediate tensors, rows looked up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime

from leanrec.compression.method import Requests, float_constants, gathers_of_tables
from leanrec.export.runtime import Tensors, rows_of

BATCH = 32


def observe(graph: onnx.ModelProto, names: Sequence[str], requests: Tensors) -> Tensors:
    """The values of the tensors `names` over all `requests`, each flattened to one axis."""
    watched = onnx.ModelProto()
    watched.CopyFrom(graph)
    for name in names:
        if name not in {value.name for value in (*watched.graph.output, *watched.graph.input)}:
            watched.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    taken = [value.name for value in session.get_inputs()]
    inside = [name for name in names if name not in taken]
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for at in range(0, len(requests[taken[0]]), BATCH):
        part = rows_of({name: requests[name] for name in taken}, slice(at, at + BATCH))
        answers = session.run(inside, part) if inside else []
        for name, value in zip(inside, answers, strict=True):
            found[name].append(np.ravel(value))
        for name in set(names) - set(inside):
            found[name].append(np.ravel(part[name]))
    return {name: np.concatenate(values) for name, values in found.items()}


def count_lookups(graph: onnx.ModelProto, requests: Requests) -> dict[str, np.ndarray]:
    """Gathered table -> how often each of its rows was looked up over the requests, [rows]."""
    gathers = gathers_of_tables(graph.graph)
    rows = {name: tensor.dims[0] for name, tensor in float_constants(graph.graph).items()}
    indices = sorted({node.input[1] for nodes in gathers.values() for node in nodes})
    constant = {tensor.name for tensor in graph.graph.initializer}
    seen = observe(graph, [name for name in indices if name not in constant], requests())
    return {
        name: sum(
            (
                np.bincount(seen[node.input[1]], minlength=rows[name])
                for node in nodes
                if node.input[1] in seen
            ),
            np.zeros(rows[name], np.int64),
        )
        for name, nodes in gathers.items()
    }
