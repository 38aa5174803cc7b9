"""Methods that rewrite the exported graph."""

from __future__ import annotations

from pydantic import Field

from leanrec.config.methods.method import GraphMethodSettings


class Fp16(GraphMethodSettings):
    """Tables and dense weights in half precision."""

    weights = frozenset({"tables", "dense"})


class Bf16(Fp16):
    """Tables and dense weights in bfloat16."""


class PruneRows(GraphMethodSettings):
    """The rows that are looked up least become one row that they share."""

    weights = frozenset({"rows of tables"})
    share: float = Field(default=0.3, gt=0, lt=1)
    """Share of each table's rows that go, at most."""


class FactorizeTables(GraphMethodSettings):
    """Gathered tables as a narrow table times a small matrix."""

    weights = frozenset({"width of tables"})
    energy: float = Field(default=0.99, gt=0, le=1)
    """Share of each table's squared weights that is kept."""
    rank: int | None = Field(default=None, ge=1)
    """The same rank for all tables instead."""


class Int8Tables(GraphMethodSettings):
    """Gathered tables in 8 bits."""

    weights = frozenset({"tables"})
    block: int = Field(default=0, ge=0)
    """Columns that share a scale; 0: the whole row."""
    symmetric: bool = True
    """Whether the numbers lie around zero; false: a block has a least value besides, in the same bytes."""


class Int8Mlp(GraphMethodSettings):
    """Dense layers multiplied in 8 bits, their inputs scaled on the fly."""

    weights = frozenset({"dense"})
    scales_by_batch = True


class Int8Static(GraphMethodSettings):
    """Dense layers multiplied in 8 bits, inputs scaled by ranges seen on training requests."""

    weights = frozenset({"dense"})
    num_requests: int = Field(default=256, ge=16)
    """Requests at least; one half gives the ranges, the other half tests them."""
    max_clipped: float = Field(default=0.01, ge=0, le=1)
    """Share of values that may lie outside of the ranges."""


class Int4Tables(GraphMethodSettings):
    """Gathered tables in 4 bits, asymmetric."""

    weights = frozenset({"tables"})
    block: int = Field(default=0, ge=0)
    """Columns that share a scale; 0: the whole row."""


class ProductQuantizedTables(GraphMethodSettings):
    """Gathered tables as bytes, each of which names a few columns' values in a codebook."""

    weights = frozenset({"tables"})
    bits: float = Field(default=4.0, ge=0.25, le=8)
    """Bits of a table's numbers; fractions are possible, for a byte stands for several columns."""
    min_rows: int = Field(default=0, ge=0)
    """Tables of fewer rows are stored in 8 bits, as are those too small for codebooks of their own."""


class MixedTables(GraphMethodSettings):
    """Each gathered table in 16, 8 or 4 bits as the answers bear it, hot rows wider than cold ones."""

    weights = frozenset({"tables"})
    max_error: float = Field(default=0.02, gt=0)
    """Root mean square that the answers may change by, in units of their own spread."""
    hot_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of a table's rows that are hot: those looked up most on training requests."""
    block: int = Field(default=0, ge=0)
    """Of 4 bits: columns that share a scale; 0: the whole row."""


class Int8Dense(GraphMethodSettings):
    """Dense weights in 8 bits, restored when the graph is loaded."""

    weights = frozenset({"dense"})


class Int4Dense(GraphMethodSettings):
    """Dense weights in 4 bits, restored when the graph is loaded."""

    weights = frozenset({"dense"})
    block: int = Field(default=32, ge=0)
    """Inputs of a neuron that share a scale; 0: all of them."""
