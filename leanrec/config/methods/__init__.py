"""The settings of every compression method; `leanrec/compression/methods/` holds the methods themselves.

There are two kinds of method. One changes the model and may fine-tune it, before export; the other rewrites
the exported graph. What a method says here of itself is all that checking a recipe needs.
"""

from __future__ import annotations

from leanrec.config.methods.method import (
    GRAPH,
    MODEL,
    FineTuningSettings,
    GraphMethodSettings,
    MethodSettings,
)
from leanrec.config.methods.on_graphs import (
    Bf16,
    FactorizeTables,
    Fp16,
    Int4Dense,
    Int4Tables,
    Int8Dense,
    Int8Mlp,
    Int8Static,
    Int8Tables,
    MixedTables,
    ProductQuantizedTables,
    PruneRows,
)
from leanrec.config.methods.on_models import (
    Distil,
    HashTables,
    LowRank,
    PruneCrossLayers,
    PruneDimensions,
    PruneHeads,
    PruneNeurons,
    QuantizationAware,
    QuotientRemainderTables,
    ReformTables,
    RobeTables,
    ShareItems,
    TensorTrainTables,
)

__all__ = [
    "GRAPH",
    "METHODS",
    "MODEL",
    "Bf16",
    "Distil",
    "FactorizeTables",
    "FineTuningSettings",
    "Fp16",
    "GraphMethodSettings",
    "HashTables",
    "Int4Dense",
    "Int4Tables",
    "Int8Dense",
    "Int8Mlp",
    "Int8Static",
    "Int8Tables",
    "LowRank",
    "MethodSettings",
    "MixedTables",
    "ProductQuantizedTables",
    "PruneCrossLayers",
    "PruneDimensions",
    "PruneHeads",
    "PruneNeurons",
    "PruneRows",
    "QuantizationAware",
    "QuotientRemainderTables",
    "ReformTables",
    "RobeTables",
    "ShareItems",
    "TensorTrainTables",
]

METHODS: dict[str, type[MethodSettings]] = {
    "distil": Distil,
    "prune_dimensions": PruneDimensions,
    "prune_neurons": PruneNeurons,
    "prune_cross_layers": PruneCrossLayers,
    "prune_heads": PruneHeads,
    "low_rank": LowRank,
    "share_items": ShareItems,
    "quantization_aware": QuantizationAware,
    "hash_tables": HashTables,
    "quotient_remainder_tables": QuotientRemainderTables,
    "robe_tables": RobeTables,
    "tensor_train_tables": TensorTrainTables,
    "factorize_tables": FactorizeTables,
    "prune_rows": PruneRows,
    "fp16": Fp16,
    "bf16": Bf16,
    "int8_tables": Int8Tables,
    "int4_tables": Int4Tables,
    "product_quantized_tables": ProductQuantizedTables,
    "mixed_tables": MixedTables,
    "int8_static": Int8Static,
    "int8_dense": Int8Dense,
    "int4_dense": Int4Dense,
    "int8_mlp": Int8Mlp,
}
"""Every method by the name that a recipe uses."""
