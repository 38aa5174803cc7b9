"""The settings of every compression method; `leanrec/compression/methods/` holds the methods themselves.

There are two kinds of method. One changes the model and may fine-tune it, before export; the other rewrites
the exported graph. What a method says here of itself is all that checking a recipe needs.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from leanrec.config.section import Section

MODEL, GRAPH = "model", "graph"


class MethodSettings(Section):
    """The settings of one method, and what a recipe must know of it."""

    kind: ClassVar[str]
    """MODEL: changes the model, before export. GRAPH: rewrites the exported graph."""
    scales_by_batch: ClassVar[bool] = False
    """Whether a user's scores depend on who shares the batch; a server then must not merge requests."""

    def rewrites(self) -> frozenset[str]:
        """What it gives a new form; a recipe does so at most once to each."""
        return frozenset()


class GraphMethodSettings(MethodSettings):
    """A method after export. The weights of a graph are gathered tables or multiplied (dense) matrices."""

    kind = GRAPH
    weights: ClassVar[frozenset[str]]

    def rewrites(self) -> frozenset[str]:
        """`tables`, `dense` or both."""
        return self.weights


class Fp16(GraphMethodSettings):
    """Tables and dense weights in half precision."""

    weights = frozenset({"tables", "dense"})


class Bf16(Fp16):
    """Tables and dense weights in bfloat16."""


class Int8Tables(GraphMethodSettings):
    """Gathered tables in 8 bits, one scale a row."""

    weights = frozenset({"tables"})


class Int8Mlp(GraphMethodSettings):
    """Dense layers multiplied in 8 bits, their inputs scaled on the fly."""

    weights = frozenset({"dense"})
    scales_by_batch = True


class Int4Tables(GraphMethodSettings):
    """Gathered tables in 4 bits, asymmetric."""

    weights = frozenset({"tables"})
    block: int = Field(default=0, ge=0)
    """Columns that share a scale; 0: the whole row."""


class Int4Dense(GraphMethodSettings):
    """Dense weights in 4 bits, restored when the graph is loaded."""

    weights = frozenset({"dense"})
    block: int = Field(default=32, ge=0)
    """Inputs of a neuron that share a scale; 0: all of them."""


METHODS: dict[str, type[MethodSettings]] = {
    "fp16": Fp16,
    "bf16": Bf16,
    "int8_tables": Int8Tables,
    "int4_tables": Int4Tables,
    "int4_dense": Int4Dense,
    "int8_mlp": Int8Mlp,
}
"""Every method by the name that a recipe uses."""
