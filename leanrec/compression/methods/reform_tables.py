"""hash_tables, quotient_remainder_tables, robe_tables, tensor_train_tables: less than a row for each index.

The tables named in the settings take another form (`leanrec/models/forms/tables.py`), filled so that it
answers about what the table did, and the model is fine-tuned with it. Only tables that are looked up in the
served graph are worth it: "user", and the histories' ("history" of the retriever, "item" of the ranker). What
items are themselves is frozen into the item vectors and item features, rows and all; prune_dimensions,
factorize_tables and share_items shrink those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from leanrec.compression.fine_tuning import fine_tune
from leanrec.compression.method import ModelMethod
from leanrec.compression.source import CompressionSource
from leanrec.config.methods import ReformTables
from leanrec.errors import CompressionError
from leanrec.models.forms.tables import TABLES
from leanrec.models.ranking.ranking_model import RankingModel
from leanrec.models.recommender import Recommender
from leanrec.models.retrieval.retriever import LearnedRetriever

Change = Callable[[Recommender, Any, CompressionSource], Recommender]


def _into(form: str, method: str, sizes: Callable[[nn.Embedding, Any], dict[str, Any]]) -> Change:
    def change(recommender: Recommender, settings: ReformTables, source: CompressionSource) -> Recommender:
        forms = {}
        for name in settings.tables:
            path = name.replace(".", ".sparse.tables.", 1)
            plain = _plain_table(recommender, path, name, method)
            given = sizes(plain, settings)
            reformed = TABLES[form](plain, recommender, **given)
            held = sum(weight.numel() for weight in reformed.parameters())
            if held >= plain.weight.numel():
                raise CompressionError(
                    f"{method}: {name} would hold {held:,} numbers instead of {plain.weight.numel():,}; "
                    "ask for fewer, or leave this table out"
                )
            forms[path] = {"form": form, **given}
        recommender.take_forms(forms)
        return fine_tune(recommender, source, settings)

    return change


def _plain_table(recommender: Recommender, path: str, name: str, method: str) -> nn.Embedding:
    known = [
        f"{part}.{table}"
        for part, model in (("retriever", recommender.retriever), ("ranker", recommender.ranker))
        if isinstance(model, LearnedRetriever | RankingModel)
        for table in model.sparse.num_rows
    ]
    if name not in known:
        raise CompressionError(f"{method}: there is no table {name!r}; known: {', '.join(known)}")
    table = recommender.get_submodule(path)
    if not isinstance(table, nn.Embedding):
        raise CompressionError(
            f"{method}: table {name} has another form already; drop one of the two methods"
        )
    return table


def _share_of_rows(table: nn.Embedding, settings: Any) -> int:
    return max(1, round(settings.share * table.num_embeddings))


def _chunked(table: nn.Embedding, settings: Any) -> dict[str, Any]:
    if table.embedding_dim % settings.chunk:
        raise CompressionError(
            f"robe_tables: chunk {settings.chunk} does not divide the tables' width {table.embedding_dim}"
        )
    return {"size": round(settings.share * table.weight.numel()), "chunk": settings.chunk}


HASH_TABLES = ModelMethod(
    name="hash_tables",
    change=_into("hashed", "hash_tables", lambda table, s: {"buckets": _share_of_rows(table, s)}),
)
QUOTIENT_REMAINDER_TABLES = ModelMethod(
    name="quotient_remainder_tables",
    change=_into(
        "quotient_remainder", "quotient_remainder_tables", lambda table, s: {"remainders": s.remainders}
    ),
)
ROBE_TABLES = ModelMethod(
    name="robe_tables",
    change=_into("robe", "robe_tables", _chunked),
)
TENSOR_TRAIN_TABLES = ModelMethod(
    name="tensor_train_tables",
    change=_into("tensor_train", "tensor_train_tables", lambda table, s: {"rank": s.rank}),
)
