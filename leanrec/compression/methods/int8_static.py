"""int8_static: dense layers multiply in 8 bits, their inputs scaled by ranges that requests showed.

As int8_mlp, but the scales are fixed when the release is made: a score does not depend on who shares the
batch, so a server may merge requests. Weights get one scale a column, inputs one scale a layer. Outputs stay
in float32: the order of 1,000 retrieval scores does not survive 8 bits.

The ranges are measured on `num_requests` requests and then held against as many others; where more than
`max_clipped` of the values of a layer's input lie outside, the sample does not stand for the traffic.

Source: ONNX Runtime, "Quantize ONNX models", static quantization, QDQ format.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from leanrec.compression.method import GraphMethod, Requests, dense_weights, require
from leanrec.compression.methods.int8_mlp import named, tidy
from leanrec.compression.observing import observe
from leanrec.config.methods import Int8Static
from leanrec.errors import CompressionError
from leanrec.export.runtime import Tensors, rows_of

BATCH = 32
"""Requests that a calibration run takes at once."""


class _Reader(CalibrationDataReader):
    def __init__(self, requests: Tensors) -> None:
        size = len(next(iter(requests.values())))
        self._parts = iter([rows_of(requests, slice(at, at + BATCH)) for at in range(0, size, BATCH)])

    def get_next(self) -> Tensors | None:
        return next(self._parts, None)


def rewrite(graph: onnx.ModelProto, settings: Int8Static, requests: Requests) -> onnx.ModelProto:
    """Put quantized inputs and weights (QuantizeLinear, DequantizeLinear) before every dense layer."""
    weights = dense_weights(graph.graph)
    require(weights, "int8_static", "dense weight")
    seen = requests()
    size = len(next(iter(seen.values())))
    if size < settings.num_requests:
        raise CompressionError(
            f"int8_static: {size} requests are too few to calibrate on, at least {settings.num_requests} are "
            "wanted; train on more events, or lower num_requests"
        )
    learnt, held = rows_of(seen, slice(0, size // 2)), rows_of(seen, slice(size // 2, None))
    inputs = sorted({node.input[0] for found in weights.values() for node in found})
    _check_representative(graph, inputs, learnt, held, settings.max_clipped)
    names = named(graph.graph, {id(node) for found in weights.values() for node in found})
    return tidy(graph, _quantize(graph, names, learnt))


def _check_representative(
    graph: onnx.ModelProto, inputs: list[str], learnt: Tensors, held: Tensors, most: float
) -> None:
    """Raise a CompressionError when requests that were not learnt from lie outside of the ranges learnt."""
    ranges = {
        name: (float(values.min()), float(values.max()))
        for name, values in observe(graph, inputs, learnt).items()
    }
    for name, values in observe(graph, inputs, held).items():
        low, high = ranges[name]
        clipped = float(np.mean((values < low) | (values > high)))
        if clipped > most:
            raise CompressionError(
                f"int8_static: {clipped:.2%} of the values at {name} lie outside of what calibration "
                f"saw, at most {most:.2%} may; the requests do not stand for the traffic: raise num_requests"
            )


def _quantize(graph: onnx.ModelProto, nodes: list[str], requests: Tensors) -> onnx.ModelProto:
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it recommends a preprocessing that torch's exporter has done already
    try:
        with tempfile.TemporaryDirectory(prefix="leanrec-int8-") as folder:
            source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
            onnx.save(graph, source)
            quantize_static(
                source,
                target,
                _Reader(requests),
                quant_format=QuantFormat.QDQ,
                nodes_to_quantize=nodes,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
            )
            return onnx.load(target)
    finally:
        logger.setLevel(level)


INT8_STATIC = GraphMethod(
    name="int8_static",
    rewrite=rewrite,
    summary="dense layers multiplied in 8 bits with scales fixed beforehand: requests may be merged",
)
