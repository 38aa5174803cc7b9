"""int8_mlp: dense layers multiply in 8 bits, their inputs quantized on the fly (dynamic quantization).

Weights get one scale a column. Inputs get one scale a call, taken from the values themselves, so no
calibration data is needed; the price is that a score depends, within its error, on which requests share a
batch. Weights are signed, the form that every processor multiplies fastest, and take 7 of their 8 bits: see
`EXACT_EVERYWHERE`.

Source: ONNX Runtime, "Quantize ONNX models", dynamic quantization.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from leanrec.compression.method import GraphMethod, Requests, dense_weights, require
from leanrec.compression.methods.int8_tables import store
from leanrec.compression.quantizer import EXACT_EVERYWHERE, name_nodes, through_files
from leanrec.compression.storage import store_scaling


def rewrite(graph: onnx.ModelProto, settings: Any, requests: Requests) -> onnx.ModelProto:
    """Replace MatMul and Gemm over constant weights by MatMulInteger over dynamically quantized inputs."""
    store_scaling(graph.graph, store)
    weights = dense_weights(graph.graph)
    require(weights, "int8_mlp", "dense weight")
    return through_files(
        graph,
        partial(
            quantize_dynamic,
            nodes_to_quantize=name_nodes(graph.graph, weights),
            per_channel=True,
            weight_type=QuantType.QInt8,
            reduce_range=EXACT_EVERYWHERE,
            extra_options={"MatMulConstBOnly": True},
        ),
    )


INT8_MLP = GraphMethod(
    name="int8_mlp",
    rewrite=rewrite,
)
