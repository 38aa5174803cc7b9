"""hash_tables, quotient_remainder_tables, robe_tables, tensor_train_tables: less than a row for each index.

The tables named in the settings take another form (`leanrec/models/forms/tables.py`), filled so that it
answers about what the table did, and the model is fine-tuned with it. Only tables that are looked up in the
served graph are worth it: "user", and the histories' ("history" of the retriever, "item" of the ranker). What
items are themselves is frozen into the item vectors and item features, rows and all; prune_dimensions,
factorize_tables and share_items shrink those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from leanrec.compression.method import ModelMethod
from leanrec.compression.reforming import reforming
from leanrec.config.methods import ReformTables
from leanrec.errors import CompressionError
from leanrec.models.forms import Description
from leanrec.models.forms.tables import TABLES
from leanrec.models.ranking.ranking_model import RankingModel
from leanrec.models.recommender import Recommender
from leanrec.models.retrieval.retriever import LearnedRetriever

Sizes = Callable[[nn.Embedding, Any], dict[str, Any]]


def describe(method: str, settings: ReformTables, tables: Mapping[str, nn.Module]) -> Description:
    """Name -> form and sizes that `method` gives to those of `tables` that its settings name.

    Raises a CompressionError for a name that is none of `tables`, for a table that has another form already,
    and for one that would not become smaller.
    """
    form, sizes = FORMS[method]
    found: Description = {}
    for name in settings.tables:
        plain = _plain_table(tables, name, method)
        given = sizes(plain, settings)
        held = sum(weight.numel() for weight in TABLES[form](plain, None, **given).parameters())
        if held >= plain.weight.numel():
            raise CompressionError(
                f"{method}: {name} would hold {held:,} numbers instead of {plain.weight.numel():,}; "
                "ask for fewer, or leave this table out"
            )
        found[name] = {"form": form, **given}
    return found


def _plain_table(tables: Mapping[str, nn.Module], name: str, method: str) -> nn.Embedding:
    if name not in tables:
        raise CompressionError(f"{method}: there is no table {name!r}; known: {', '.join(tables)}")
    table = tables[name]
    if not isinstance(table, nn.Embedding):
        raise CompressionError(
            f"{method}: table {name} has another form already; drop one of the two methods"
        )
    return table


def _method(name: str) -> ModelMethod:
    def forms_of(recommender: Recommender, settings: ReformTables) -> Description:
        tables = {
            f"{part}.{table}": module
            for part, model in (("retriever", recommender.retriever), ("ranker", recommender.ranker))
            if isinstance(model, LearnedRetriever | RankingModel)
            for table, module in model.sparse.tables.items()
        }
        found = describe(name, settings, tables)
        return {table.replace(".", ".sparse.tables.", 1): form for table, form in found.items()}

    return reforming(name, forms_of)


def _share_of_rows(table: nn.Embedding, settings: Any) -> int:
    return max(1, round(settings.share * table.num_embeddings))


def _chunked(table: nn.Embedding, settings: Any) -> dict[str, Any]:
    if table.embedding_dim % settings.chunk:
        raise CompressionError(
            f"robe_tables: chunk {settings.chunk} does not divide the tables' width {table.embedding_dim}"
        )
    return {"size": round(settings.share * table.weight.numel()), "chunk": settings.chunk}


FORMS: dict[str, tuple[str, Sizes]] = {
    "hash_tables": ("hashed", lambda table, s: {"buckets": _share_of_rows(table, s)}),
    "quotient_remainder_tables": ("quotient_remainder", lambda table, s: {"remainders": s.remainders}),
    "robe_tables": ("robe", _chunked),
    "tensor_train_tables": ("tensor_train", lambda table, s: {"rank": s.rank}),
}
"""Method -> the form that it gives, and its sizes."""

HASH_TABLES, QUOTIENT_REMAINDER_TABLES, ROBE_TABLES, TENSOR_TRAIN_TABLES = map(_method, FORMS)
