"""ONNX Runtime's quantizer, which works on files, called on a graph and tidied up after."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx

EXACT_EVERYWHERE = True
"""Weights lie within -64..64. A processor without VNNI adds two products of 8 bits in 16 before it widens the
sum, and 2 * 255 * 64 is the most that fits: with -127..127 such sums saturate, and the same release answers
differently on another processor."""


def through_files(graph: onnx.ModelProto, quantize: Callable[[Path, Path], None]) -> onnx.ModelProto:
    """What `quantize` (source, target) makes of `graph`, with the interface that `graph` has."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it recommends a preprocessing that torch's exporter has done already
    try:
        with tempfile.TemporaryDirectory(prefix="leanrec-int8-") as folder:
            source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
            onnx.save(graph, source)
            quantize(source, target)
            return _tidy(graph, onnx.load(target))
    finally:
        logger.setLevel(level)


def name_nodes(graph: onnx.GraphProto, weights: dict[str, list[onnx.NodeProto]]) -> list[str]:
    """Give every node a name of its own; answers those of the readers of `weights`."""
    wanted = {node.output[0] for readers in weights.values() for node in readers}
    names = []
    for number, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{number}"
        if node.output[0] in wanted:
            # The quantizer first turns a Gemm into a MatMul of this name and an Add.
            names += [node.name, f"{node.name}_MatMul"]
    return names


def _tidy(graph: onnx.ModelProto, quantized: onnx.ModelProto) -> onnx.ModelProto:
    """What the quantizer made of `graph`, with the interface, producer and operator sets of `graph`."""
    producer = graph.producer_name, graph.producer_version
    domains = [(entry.domain, entry.version) for entry in graph.opset_import]
    body = quantized.graph
    for ours, theirs in ((graph.graph.input, body.input), (graph.graph.output, body.output)):
        del theirs[:]
        theirs.extend(ours)  # the quantizer names axes that had no name
    del quantized.graph.value_info[:]
    del quantized.metadata_props[:]
    quantized.producer_name, quantized.producer_version = producer
    assert {d for d, _ in domains} >= {n.domain for n in quantized.graph.node}, "only portable operators"
    del quantized.opset_import[:]
    quantized.opset_import.extend(onnx.helper.make_opsetid(*entry) for entry in domains)
    return quantized
