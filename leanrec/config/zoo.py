"""The models by name, and the options that only one of them has. leanrec/models holds what the names mean."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from leanrec.config.section import Section

RETRIEVERS = (
    "two_tower",
    "matrix_factorization",
    "light_gcn",
    "gru4rec",
    "caser",
    "sasrec",
)
RANKERS = (
    "dcn_v2",
    "logistic_regression",
    "factorization_machine",
    "wide_and_deep",
    "deep_fm",
    "neu_mf",
    "dlrm",
    "din",
    "behaviour_sequence_transformer",
)


def _one_of(names: tuple[str, ...]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
            raise ValueError(f"there is no such model; {hint}")
        return name

    return AfterValidator(check)


RetrieverName = Annotated[str, _one_of(RETRIEVERS)]
RankerName = Annotated[str, _one_of(RANKERS)]


class LightGCNSettings(Section):
    """LightGCN."""

    layers: int = Field(default=2, ge=1)
    """Steps over the graph: how many hops away a user or an item is heard."""


class GRU4RecSettings(Section):
    """GRU4Rec."""

    layers: int = Field(default=1, ge=1)
    """Stacked GRU layers."""
    whole_sequences: bool = True
    """One pass over a user's sequence teaches all its events; false: each event is a pass of its own."""


class CaserSettings(Section):
    """Caser."""

    length: int = Field(default=8, ge=1)
    """Latest items of the history that the convolutions see."""
    horizontal_filters: int = Field(default=16, ge=1)
    """Filters of each height, over several items at once."""
    vertical_filters: int = Field(default=4, ge=1)
    """Filters over one dimension of all items."""


class SASRecSettings(Section):
    """SASRec."""

    layers: int = Field(default=2, ge=1)
    """Transformer layers."""
    heads: int = Field(default=2, ge=1)
    """Attention heads; they share out `dim`."""
    whole_sequences: bool = True
    """One pass over a user's sequence teaches all its events; false: each event is a pass of its own."""


RETRIEVER_DEFAULTS: dict[str, dict[str, Any]] = {}
"""Model -> the fields of RetrieverSettings that it needs another default for."""


class DLRMSettings(Section):
    """DLRM."""

    dense_hidden: tuple[int, ...] = (64,)
    """Hidden layers of the network over the numbers; its last layer is as wide as the tables."""


class DINSettings(Section):
    """DIN."""

    attention_hidden: int = Field(default=36, ge=1)
    """Width of the hidden layer that weights an event of the history for a candidate."""


class BehaviourSequenceTransformerSettings(Section):
    """The behaviour sequence Transformer."""

    layers: int = Field(default=1, ge=1)
    """Transformer layers."""
    heads: int = Field(default=4, ge=1)
    """Attention heads; they share out `dim`."""


RANKER_DEFAULTS: dict[str, dict[str, Any]] = {}
"""Model -> the fields of RankerSettings that it needs another default for."""
