"""Methods that change the model before export, and may fine-tune it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from leanrec.config.methods.method import FineTuningSettings
from leanrec.config.methods.on_graphs import Int4Tables, Int8Tables
from leanrec.config.section import Widths


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
    retriever_hidden: Widths | None = None
    """Widths of the user tower's hidden layers."""
    ranker_dim: int | None = Field(default=None, ge=4)
    """Width of the ranker's embedding tables."""
    ranker_hidden: Widths | None = None
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
    parts: tuple[Literal["retriever", "ranker"], ...] = Field(default=("retriever", "ranker"), min_length=1)
    """Whose hidden layers: the retriever's run once a user, the ranker's once a candidate."""


class PruneCrossLayers(FineTuningSettings):
    """Fewer cross layers in the ranker."""

    cross_layers: int = Field(default=1, ge=1)
    """The first so many stay."""


class PruneHeads(FineTuningSettings):
    """Fewer attention heads in every layer; null: as many as before."""

    retriever_heads: int | None = Field(default=None, ge=1)
    """Heads that stay in each layer of the retriever."""
    ranker_heads: int | None = Field(default=None, ge=1)
    """Heads that stay in each layer of the ranker."""

    def rewrites(self) -> frozenset[str]:
        """The heads of each model named."""
        heads = {"retriever.heads": self.retriever_heads, "ranker.heads": self.ranker_heads}
        return frozenset(name for name, left in heads.items() if left is not None)


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
    int8_block: int = Field(default=0, ge=0)
    """Of tables in 8 bits: the `block` of int8_tables."""
    int8_symmetric: bool = True
    """Of tables in 8 bits: the `symmetric` of int8_tables."""

    @model_validator(mode="after")
    def _rounds_in_8_bits_where_it_says_how(self) -> Self:
        if self.table_bits != 8 and (self.int8_block or not self.int8_symmetric):
            raise ValueError(
                f"int8_block {self.int8_block} and int8_symmetric {self.int8_symmetric} are of tables in 8 "
                f"bits, and table_bits is {self.table_bits}; leave them out, or set table_bits to 8"
            )
        return self

    def form_of_tables(self) -> Int8Tables | Int4Tables:
        """The later method whose rounding of tables this one foresees."""
        if self.table_bits == 4:
            return Int4Tables(block=self.block)
        return Int8Tables(block=self.int8_block, symmetric=self.int8_symmetric)
