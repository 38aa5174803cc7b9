"""prune_cross_layers: the last cross layers leave the ranker, which is fine-tuned without them.

A cross layer is one more power of the features in what the ranker multiplies, and runs once a candidate. The
layers that stay keep their weights: each stands on the ones before it alone. A ranker that has no more cross
layers than are to stay keeps them.
"""

from __future__ import annotations

from leanrec.compression.fine_tuning import RANKER, fine_tune
from leanrec.compression.method import ModelMethod
from leanrec.compression.reshaping import narrower
from leanrec.compression.source import CompressionSource
from leanrec.config.fit import misfit_of
from leanrec.config.methods import PruneCrossLayers
from leanrec.errors import CompressionError
from leanrec.models.recommender import Recommender

METHOD = "prune_cross_layers"


def change(recommender: Recommender, settings: PruneCrossLayers, source: CompressionSource) -> Recommender:
    """`recommender` with its first `cross_layers` cross layers alone, fine-tuned."""
    misfit = misfit_of(METHOD, settings, recommender.settings)
    if misfit is not None:
        raise CompressionError(misfit)
    smaller = narrower(recommender, {RANKER: {"cross_layers": settings.cross_layers}})
    return fine_tune(smaller, source, settings)


PRUNE_CROSS_LAYERS = ModelMethod(
    name=METHOD,
    change=change,
)
