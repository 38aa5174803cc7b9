"""Every compression method. A new one is a file here, a line below, and its settings in leanrec/config."""

from __future__ import annotations

from leanrec.compression.method import GraphMethod, ModelMethod
from leanrec.compression.methods.distil import DISTIL
from leanrec.compression.methods.factorize_tables import FACTORIZE_TABLES
from leanrec.compression.methods.fp16 import BF16, FP16
from leanrec.compression.methods.int4 import INT4_DENSE, INT4_TABLES
from leanrec.compression.methods.int8_mlp import INT8_MLP
from leanrec.compression.methods.int8_static import INT8_STATIC
from leanrec.compression.methods.int8_tables import INT8_DENSE, INT8_TABLES
from leanrec.compression.methods.low_rank import LOW_RANK
from leanrec.compression.methods.mixed_tables import MIXED_TABLES
from leanrec.compression.methods.product_quantized_tables import PRODUCT_QUANTIZED_TABLES
from leanrec.compression.methods.prune_cross_layers import PRUNE_CROSS_LAYERS
from leanrec.compression.methods.prune_dimensions import PRUNE_DIMENSIONS
from leanrec.compression.methods.prune_heads import PRUNE_HEADS
from leanrec.compression.methods.prune_neurons import PRUNE_NEURONS
from leanrec.compression.methods.prune_rows import PRUNE_ROWS
from leanrec.compression.methods.quantization_aware import QUANTIZATION_AWARE
from leanrec.compression.methods.reform_tables import (
    HASH_TABLES,
    QUOTIENT_REMAINDER_TABLES,
    ROBE_TABLES,
    TENSOR_TRAIN_TABLES,
)
from leanrec.compression.methods.share_items import SHARE_ITEMS

_ON_GRAPHS = (
    PRUNE_ROWS,
    INT8_STATIC,
    FACTORIZE_TABLES,
    FP16,
    BF16,
    INT8_TABLES,
    INT4_TABLES,
    PRODUCT_QUANTIZED_TABLES,
    MIXED_TABLES,
    INT8_MLP,
    INT8_DENSE,
    INT4_DENSE,
)

GRAPH_METHODS: dict[str, GraphMethod] = {method.name: method for method in _ON_GRAPHS}
"""Methods that rewrite an exported graph."""

_ON_MODELS = (
    DISTIL,
    PRUNE_DIMENSIONS,
    PRUNE_NEURONS,
    PRUNE_CROSS_LAYERS,
    PRUNE_HEADS,
    LOW_RANK,
    SHARE_ITEMS,
    QUANTIZATION_AWARE,
    HASH_TABLES,
    QUOTIENT_REMAINDER_TABLES,
    ROBE_TABLES,
    TENSOR_TRAIN_TABLES,
)

MODEL_METHODS: dict[str, ModelMethod] = {method.name: method for method in _ON_MODELS}
"""Methods that change the model before it is exported."""
