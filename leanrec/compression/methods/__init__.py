"""Every compression method. A new one is a file here, a line below, and its settings in leanrec/config."""

from __future__ import annotations

from leanrec.compression.method import GraphMethod, ModelMethod
from leanrec.compression.methods.fp16 import BF16, FP16
from leanrec.compression.methods.int4 import INT4_DENSE, INT4_TABLES
from leanrec.compression.methods.int8_mlp import INT8_MLP
from leanrec.compression.methods.int8_tables import INT8_TABLES

_ON_GRAPHS = (FP16, BF16, INT8_TABLES, INT4_TABLES, INT8_MLP, INT4_DENSE)

GRAPH_METHODS: dict[str, GraphMethod] = {method.name: method for method in _ON_GRAPHS}
"""Methods that rewrite an exported graph."""

MODEL_METHODS: dict[str, ModelMethod] = {}
"""Methods that change the model before it is exported."""
