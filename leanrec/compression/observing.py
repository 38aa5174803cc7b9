"""What happens inside a graph while it answers requests: values of intermediate tensors, rows looked up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnxruntime

from leanrec.compression.method import Requests, float_constants, gathers_of_tables
from leanrec.export.runtime import Tensors, rows_of

BATCH = 32
"""Requests that a graph is asked at once."""


def observe(graph: onnx.ModelProto, names: Sequence[str], requests: Tensors) -> Iterator[Tensors]:
    """The values of the tensors `names`, batch by batch of `requests`: all at once might not fit."""
    watched = onnx.ModelProto()
    watched.CopyFrom(graph)
    given = {value.name for value in watched.graph.input}
    known = given | {value.name for value in watched.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    inside = [name for name in names if name not in given]
    for at in range(0, len(next(iter(requests.values()))), BATCH):
        part = rows_of({name: requests[name] for name in given}, slice(at, at + BATCH))
        answers = session.run(inside, part) if inside else []
        yield {name: part[name] for name in names if name in given} | dict(zip(inside, answers, strict=True))


def count_lookups(graph: onnx.ModelProto, requests: Requests) -> dict[str, np.ndarray]:
    """Gathered table -> how often each of its rows was looked up over the requests, [rows]."""
    gathers = gathers_of_tables(graph.graph)
    rows = {name: tensor.dims[0] for name, tensor in float_constants(graph.graph).items()}
    constant = {tensor.name for tensor in graph.graph.initializer}
    indices = {node.input[1] for nodes in gathers.values() for node in nodes} - constant
    counts = {name: np.zeros(rows[name], np.int64) for name in gathers}
    for seen in observe(graph, sorted(indices), requests()):
        for name, nodes in gathers.items():
            for node in nodes:
                if node.input[1] in seen:
                    counts[name] += np.bincount(np.ravel(seen[node.input[1]]), minlength=rows[name])
    return counts
