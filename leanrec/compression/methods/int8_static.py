"""int8_static: dense layers multiply in 8 bits, their inputs scaled by ranges that requests showed.

As int8_mlp, but the scales are fixed when the release is made: a score does not depend on who shares the
batch, so a server may merge requests. Weights get one scale a column and 7 of their 8 bits
(`EXACT_EVERYWHERE`), inputs one scale a layer. Outputs stay in float32: the order of 1,000 retrieval scores
does not survive 8 bits.

The ranges are measured on one half of the requests and held against the other half; where more than
`max_clipped` of the values of a layer's input lie outside, the sample does not stand for the traffic.

Source: ONNX Runtime, "Quantize ONNX models", static quantization, QDQ format.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from leanrec.compression.method import GraphMethod, Requests, dense_weights, require
from leanrec.compression.methods.int8_tables import store
from leanrec.compression.observing import BATCH, observe
from leanrec.compression.quantizer import EXACT_EVERYWHERE, name_nodes, through_files
from leanrec.compression.storage import store_scaling
from leanrec.config.methods import Int8Static
from leanrec.errors import CompressionError
from leanrec.export.runtime import Tensors, rows_of


class _Reader(CalibrationDataReader):
    def __init__(self, requests: Tensors) -> None:
        size = len(next(iter(requests.values())))
        self._parts = iter([rows_of(requests, slice(at, at + BATCH)) for at in range(0, size, BATCH)])

    def get_next(self) -> Tensors | None:
        return next(self._parts, None)


def rewrite(graph: onnx.ModelProto, settings: Int8Static, requests: Requests) -> onnx.ModelProto:
    """Put quantized inputs and weights (QuantizeLinear, DequantizeLinear) before every dense layer."""
    store_scaling(graph.graph, store)
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
    return through_files(
        graph,
        partial(
            quantize_static,
            calibration_data_reader=_Reader(learnt),
            quant_format=QuantFormat.QDQ,
            nodes_to_quantize=name_nodes(graph.graph, weights),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=EXACT_EVERYWHERE,
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
        ),
    )


def _check_representative(
    graph: onnx.ModelProto, inputs: list[str], learnt: Tensors, held: Tensors, most: float
) -> None:
    """Raise a CompressionError when requests that were not learnt from lie outside of the ranges learnt."""
    low, high = dict.fromkeys(inputs, np.inf), dict.fromkeys(inputs, -np.inf)
    for values in observe(graph, inputs, learnt):
        for name, value in values.items():
            low[name], high[name] = min(low[name], value.min()), max(high[name], value.max())
    outside, size = dict.fromkeys(inputs, 0), dict.fromkeys(inputs, 0)
    for values in observe(graph, inputs, held):
        for name, value in values.items():
            outside[name] += int(np.sum((value < low[name]) | (value > high[name])))
            size[name] += value.size
    for name in inputs:
        clipped = outside[name] / size[name]
        if clipped > most:
            raise CompressionError(
                f"int8_static: {clipped:.2%} of the values at {name} lie outside of what calibration "
                f"saw, at most {most:.2%} may; the requests do not stand for the traffic: raise num_requests"
            )


INT8_STATIC = GraphMethod(
    name="int8_static",
    rewrite=rewrite,
)
