"""share_items: one item table for both towers, and one for both halves of the ranker.

Retriever: the history is looked up in the item vectors that retrieval multiplies by, through one learnt
matrix (least squares, then fine-tuned), so the history's own table goes. Ranker: the served graph
holds each item's embedding in the item features already, and the history is read there; that loses nothing.
"""

from __future__ import annotations

from leanrec.compression.reforming import reforming
from leanrec.config.methods import ShareItems
from leanrec.errors import CompressionError
from leanrec.models.forms import Description
from leanrec.models.recommender import Recommender

HISTORY = "retriever.sparse.tables.history"


def forms_of(recommender: Recommender, settings: ShareItems) -> Description:
    """No tables of their own for histories."""
    forms: Description = {"ranker.sparse.tables.item": {"form": "items_of_features"}}
    if settings.retriever:
        if HISTORY not in dict(recommender.named_modules()):
            raise CompressionError(
                f"share_items: the retriever {recommender.settings.retriever.model!r} has no table of its "
                "own for histories; set retriever to false"
            )
        forms[HISTORY] = {"form": "items_of_tower"}
    return forms


SHARE_ITEMS = reforming("share_items", forms_of)
