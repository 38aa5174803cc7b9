"""share_items: one item table for both towers, and one for both halves of the ranker.

Retriever: the history is looked up in the item vectors that retrieval multiplies by, through one learnt
matrix (least squares, then fine-tuned), so the history's own table goes. Ranker: the served graph
holds each item's embedding in the item features already, and the history is read there; that loses nothing.
"""

from __future__ import annotations

from leanrec.compression.fine_tuning import fine_tune
from leanrec.compression.method import ModelMethod
from leanrec.compression.source import CompressionSource
from leanrec.config.methods import ShareItems
from leanrec.models.recommender import Recommender


def change(recommender: Recommender, settings: ShareItems, source: CompressionSource) -> Recommender:
    """`recommender` without tables of its own for histories, fine-tuned."""
    forms = {"ranker.sparse.tables.item": {"form": "items_of_features"}}
    if settings.retriever:
        forms["retriever.sparse.tables.history"] = {"form": "items_of_tower"}
    recommender.take_forms(forms)
    return fine_tune(recommender, source, settings)


SHARE_ITEMS = ModelMethod(
    name="share_items",
    change=change,
)
