"""The models by name, and the options that only one of them has. leanrec/models holds what the names mean."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from leanrec.config.section import Section, Widths, nearest

RETRIEVERS = (
    "two_tower",
    "matrix_factorization",
    "light_gcn",
    "gru4rec",
    "caser",
    "sasrec",
    "popularity",
    "content_based",
    "user_neighbours",
    "item_neighbours",
    "ease",
    "als",
    "bpr",
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


ELSEWHERE = {
    "itemknn": "item_neighbours",
    "userknn": "user_neighbours",
    "tfidf": "content_based",
    "mf": "matrix_factorization",
    "fm": "factorization_machine",
    "lr": "logistic_regression",
    "ncf": "neu_mf",
    "bst": "behaviour_sequence_transformer",
}
"""What other libraries call a model, in small letters -> its name here, for who asks for it."""


def _one_of(names: tuple[str, ...], others: tuple[str, ...], kind: str) -> AfterValidator:
    """Refuses what is not of `names`; of `others`, each a `kind` ("ranker"), it says where they belong."""

    def check(name: str) -> str:
        if name in names:
            return name
        here = ELSEWHERE.get(name.lower().replace("_", ""), name)
        lower = {other.replace("_", ""): other for other in others}
        other = lower.get(here.lower().replace("_", ""))
        if other:
            raise ValueError(f"{other} is a {kind}; set training.{kind}.model")
        raise ValueError(f"there is no such model; {nearest(here, names)}")

    return AfterValidator(check)


RetrieverName = Annotated[str, _one_of(RETRIEVERS, RANKERS, "ranker")]
RankerName = Annotated[str, _one_of(RANKERS, RETRIEVERS, "retriever")]


class LightGCNSettings(Section):
    """LightGCN."""

    layers: int = Field(default=2, ge=1)
    """Steps over the graph: how many hops away a user or an item is heard."""


class GRU4RecSettings(Section):
    """GRU4Rec."""

    layers: int = Field(default=1, ge=1)
    """Stacked GRU layers."""
    hidden: int | None = Field(default=None, ge=1)
    """Width of their state; null: that of the vectors (`dim`)."""
    whole_sequences: bool = True
    """One pass over a user's sequence teaches all its events; false: each event is a pass of its own."""


class CaserSettings(Section):
    """Caser."""

    length: int = Field(default=5, ge=1)
    """Latest items of the history that the convolutions see: features.history_length at most."""
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
    hidden: int | None = Field(default=None, ge=1)
    """Width of each layer's network behind the attention; null: that of the vectors (`dim`)."""
    whole_sequences: bool = True
    """One pass over a user's sequence teaches all its events; false: each event is a pass of its own."""


class ContentBasedSettings(Section):
    """Content-based."""

    encoder: str | None = None
    """Folder of a sentence encoder (package sentence-transformers); null: TF-IDF."""
    seed: int = 1
    """Seed of the truncated SVD."""


class NeighboursSettings(Section):
    """Neighbours among users or items."""

    similarity: Literal["cosine", "pearson", "euclidean"] = "cosine"
    """What makes two alike."""
    count: int = Field(default=100, ge=1)
    """Nearest neighbours that count."""


class EASESettings(Section):
    """EASE."""

    l2: float = Field(default=200.0, gt=0)
    """Regularization."""


class ALSSettings(Section):
    """Implicit ALS."""

    alpha: float = Field(default=4.0, gt=0)
    """Confidence that an event adds."""
    l2: float = Field(default=20.0, gt=0)
    """Regularization."""
    iterations: int = Field(default=15, ge=1)
    """Times that users and items are solved for in turn."""
    seed: int = 1
    """Seed of the first vectors."""


class BPRSettings(Section):
    """BPR."""

    learning_rate: float = Field(default=0.005, gt=0)
    """Step of the gradient."""
    l2: float = Field(default=0.01, ge=0)
    """Regularization."""
    iterations: int = Field(default=200, ge=1)
    """Passes over the events."""
    seed: int = 1
    """Seed of the first vectors and of the pairs drawn."""


RETRIEVER_DEFAULTS: dict[str, dict[str, Any]] = {
    "matrix_factorization": {"epochs": 20, "dim": 128, "temperature": 8.0, "table_learning_rate": 0.1},
    "light_gcn": {"epochs": 15},
    "gru4rec": {"epochs": 12, "dropout": 0.4, "table_learning_rate": 0.1},
    "caser": {"epochs": 8, "dropout": 0.5},
    "sasrec": {"epochs": 20},
    "als": {"dim": 128},
}
"""Model -> the fields of RetrieverSettings that it needs another default for."""


_BY_GRADIENT = RETRIEVERS[: RETRIEVERS.index("popularity")]
RETRIEVER_READ_BY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            *("epochs", "batch_size", "patience", "learning_rate", "table_learning_rate", "weight_decay"),
            *("optimizer", "temperature", "loss", "negatives", "full_softmax_items", "softmax_negatives"),
            *("num_negatives", "calibration"),
        ),
        _BY_GRADIENT,
    ),
    "dim": (*_BY_GRADIENT, "content_based", "als", "bpr"),
    "hidden": ("two_tower",),
    "dropout": ("two_tower", "gru4rec", "caser", "sasrec"),
    "neighbours": ("user_neighbours", "item_neighbours"),
    **{name: (name,) for name in ("light_gcn", "gru4rec", "caser", "sasrec", "content_based")},
    **{name: (name,) for name in ("ease", "als", "bpr")},
}
"""Field of RetrieverSettings -> the models that read it, where not all do."""


class DLRMSettings(Section):
    """DLRM."""

    dense_hidden: Widths = (64,)
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

_DEEP = tuple(name for name in RANKERS if name not in ("logistic_regression", "factorization_machine"))
RANKER_READ_BY: dict[str, tuple[str, ...]] = {
    "cross_layers": ("dcn_v2",),
    "hidden": _DEEP,
    "dropout": _DEEP,
    **{name: (name,) for name in ("dlrm", "din", "behaviour_sequence_transformer")},
}
"""Field of RankerSettings -> the models that read it, where not all do."""
