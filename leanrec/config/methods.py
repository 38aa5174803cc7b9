"""The settings of every compression method; `leanrec/compression/methods/` holds the methods themselves.

There are two kinds of method. One changes the model and may fine-tune it, before export; the other rewrites
the exported graph. What a method says here of itself is all that checking a recipe needs.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from leanrec.config.section import Section

MODEL, GRAPH = "model", "graph"
NULL = "none"
"""How a null is written where the default is another value: KFP's arguments know no null."""


class MethodSettings(Section):
    """The settings of one method, and what a recipe must know of it."""

    kind: ClassVar[str]
    """MODEL: changes the model, before export. GRAPH: rewrites the exported graph."""
    scales_by_batch: ClassVar[bool] = False
    """Whether a user's scores depend on who shares the batch; a server then must not merge requests."""

    @model_validator(mode="before")
    @classmethod
    def _none_is_null(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: None if value == NULL else value for name, value in values.items()}

    def rewrites(self) -> frozenset[str]:
        """What it gives a new form; a recipe does so at most once to each."""
        return frozenset()

    def written(self) -> dict[str, Any]:
        """All settings as JSON values without null: what is null by default is left out, others are NULL."""
        values = self.model_dump(mode="json")
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        return {
            name: NULL if value is None else value
            for name, value in values.items()
            if value is not None or defaults[name] is not None
        }


class FineTuningSettings(MethodSettings):
    """A method on the model, and how the model learns to live with it."""

    kind = MODEL
    retriever_epochs: int = Field(default=1, ge=0)
    """Passes over the training events for the retriever."""
    ranker_epochs: int = Field(default=1, ge=0)
    """Passes over the training events for the ranker."""
    rate: float = Field(default=0.3, gt=0)
    """Learning rates as a share of those in training; they fall to zero linearly."""
    teacher_weight: float = Field(default=0.5, ge=0, le=1)
    """Weight of what the trained model says, against what happened; 0: no teacher."""
    list_weight: float = Field(default=0.0, ge=0)
    """Weight, in the retriever's lesson, of the order by the teacher's ranker."""
    feature_weight: float = Field(default=0.0, ge=0)
    """Weight, in the ranker's lesson, of the teacher's last hidden layer."""


class Distil(FineTuningSettings):
    """A smaller model taught by the trained one; what is null stays as it was trained."""

    retriever_epochs: int = Field(default=6, ge=0)
    """Passes over the training events for the retriever."""
    ranker_epochs: int = Field(default=3, ge=0)
    """Passes over the training events for the ranker."""
    rate: float = Field(default=1.0, gt=0)
    """Learning rates as a share of those in training; they fall to zero linearly."""
    retriever_dim: int | None = Field(default=None, ge=4)
    """Width of user and item vectors."""
    retriever_hidden: tuple[int, ...] | None = None
    """Widths of the user tower's hidden layers."""
    ranker_dim: int | None = Field(default=None, ge=4)
    """Width of the ranker's embedding tables."""
    ranker_hidden: tuple[int, ...] | None = None
    """Widths of the ranker's deep part."""
    cross_layers: int | None = Field(default=None, ge=1)
    """Cross layers of the ranker."""
    teachers: tuple[str, ...] = ()
    """Folders of further trained models (`model` artifacts) that teach beside the trained one."""


class PruneDimensions(FineTuningSettings):
    """Fewer columns in every table; null: as many as before."""

    retriever_dim: int | None = Field(default=None, ge=4)
    """Width of user and item vectors."""
    ranker_dim: int | None = Field(default=None, ge=4)
    """Width of the ranker's embedding tables."""


class PruneNeurons(FineTuningSettings):
    """Fewer neurons in every hidden layer."""

    share: float = Field(default=0.5, gt=0, lt=1)
    """Share of each hidden layer's neurons that go."""


class LowRank(FineTuningSettings):
    """Dense layers as products of two narrow ones; null: that part stays whole."""

    cross_rank: int | None = Field(default=48, ge=1)
    """Rank of the ranker's cross layers."""
    deep_rank: int | None = Field(default=None, ge=1)
    """Rank of the hidden layers of both models."""


class ShareItems(FineTuningSettings):
    """One item table where there were two."""

    retriever: bool = True
    """Whether the towers share, too; the halves of the ranker always do, which loses nothing."""

    def rewrites(self) -> frozenset[str]:
        """The tables of histories."""
        return frozenset({"ranker.item"} | ({"retriever.history"} if self.retriever else set()))


class ReformTables(FineTuningSettings):
    """Tables that hold less than a row for each index."""

    tables: tuple[str, ...] = ("retriever.user", "retriever.history", "ranker.user")
    """Which ones; of the ranker's "item" only the history is looked up, unless share_items is used."""

    def rewrites(self) -> frozenset[str]:
        """The tables named."""
        return frozenset(self.tables)


class HashTables(ReformTables):
    """Indices share rows by a hash."""

    share: float = Field(default=0.5, gt=0, lt=1)
    """Rows that are left, as a share."""


class QuotientRemainderTables(ReformTables):
    """A row as the product of a row by quotient and a row by remainder."""

    remainders: int = Field(default=4, ge=2)
    """Rows of the remainders' table; the quotients' has rows / remainders."""


class RobeTables(ReformTables):
    """Rows made of chunks of one array."""

    share: float = Field(default=0.25, gt=0, lt=1)
    """Length of the array as a share of the table's numbers."""
    chunk: int = Field(default=8, ge=1)
    """Numbers that are read in one piece; it divides the table's width."""


class TensorTrainTables(ReformTables):
    """A table as a chain of three cores."""

    rank: int = Field(default=16, ge=1)
    """Rank of the chain."""


class QuantizationAware(FineTuningSettings):
    """Fine-tuning with tables and layers rounded as a later method will round them."""

    table_bits: Literal[4, 8] = 8
    """Bits of a table's numbers."""
    dense_bits: Literal[4, 8] | None = 8
    """Bits of a layer's weights; null: they are not rounded."""
    block: int = Field(default=0, ge=0)
    """Of 4 bits: columns that share a scale; 0: the whole row."""


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
    """Gathered tables in 8 bits, one scale a row."""

    weights = frozenset({"tables"})


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


METHODS: dict[str, type[MethodSettings]] = {
    "distil": Distil,
    "prune_dimensions": PruneDimensions,
    "prune_neurons": PruneNeurons,
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
