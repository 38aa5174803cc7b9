"""int8_mlp: dense layers multiply in 8 bits, their inputs quantized on the fly (dynamic quantization).

Weights get one scale a column. Inputs get one scale a call, taken from the values themselves, so no
calibration data is needed; the price is that a score depends, within its error, on which requests share a
batch. Weights are signed, which is exact and fastest on CPUs with VNNI or AMX; on older ones sums may
saturate, and the parity gate of a release shows it.

Source: ONNX Runtime, "Quantize ONNX models", dynamic quantization.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from leanrec.compression.method import GraphMethod, Requests, dense_weights, require


def rewrite(graph: onnx.ModelProto, settings: Any, requests: Requests) -> onnx.ModelProto:
    """Replace MatMul and Gemm over constant weights by MatMulInteger over dynamically quantized inputs."""
    weights = dense_weights(graph.graph)
    require(weights, "int8_mlp", "dense weight")
    nodes = named(graph.graph, {id(node) for found in weights.values() for node in found})
    return tidy(graph, _quantize(graph, nodes))


def tidy(graph: onnx.ModelProto, quantized: onnx.ModelProto) -> onnx.ModelProto:
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


def named(graph: onnx.GraphProto, wanted: set[int]) -> list[str]:
    """Give every node a name of its own; answers the names of those wanted."""
    names = []
    for number, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{number}"
        if id(node) in wanted:
            # The quantizer first turns a Gemm into a MatMul of this name and an Add.
            names += [node.name, f"{node.name}_MatMul"]
    return names


def _quantize(graph: onnx.ModelProto, nodes: list[str]) -> onnx.ModelProto:
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it recommends a preprocessing that torch's exporter has done already
    try:
        with tempfile.TemporaryDirectory(prefix="leanrec-int8-") as folder:
            source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
            onnx.save(graph, source)
            quantize_dynamic(
                source,
                target,
                nodes_to_quantize=nodes,
                per_channel=True,
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
            return onnx.load(target)
    finally:
        logger.setLevel(level)


INT8_MLP = GraphMethod(
    name="int8_mlp",
    rewrite=rewrite,
    summary="dense layers multiplied in 8 bits: a quarter of their bytes, and less time",
)
