"""low_rank: dense layers as a product of two narrow ones, by truncated SVD, and fine-tuned.

A layer W [outputs, inputs] becomes U [outputs, r] V [r, inputs] where that is smaller. In the cross layers
this is the low-rank DCNv2 of its authors (Wang et al. 2021, section 3.3), and r the cross rank.
"""

from __future__ import annotations

from torch import nn

from leanrec.compression.reforming import reforming
from leanrec.config.methods import LowRank
from leanrec.errors import CompressionError
from leanrec.models.forms import Description
from leanrec.models.recommender import Recommender


def forms_of(recommender: Recommender, settings: LowRank) -> Description:
    """Cross layers of `cross_rank`, towers and deep part of `deep_rank`, where that is smaller."""
    ranks = {
        "ranker.cross": settings.cross_rank,
        "ranker.deep": settings.deep_rank,
        "retriever.user_mlp": settings.deep_rank,
    }
    found: Description = {}
    for path, module in recommender.named_modules():
        part = next((part for part in ranks if path.startswith(part)), None)
        rank = ranks.get(part or "")
        if rank is None or not isinstance(module, nn.Linear):
            continue
        width = min(module.in_features, module.out_features)
        if rank > width:
            raise CompressionError(
                f"low_rank: rank {rank} is above the width {width} of {path}; choose a smaller one"
            )
        if rank * (module.in_features + module.out_features) < module.weight.numel():
            found[path] = {"form": "low_rank", "rank": rank}
    if not found:
        raise CompressionError("low_rank: no layer would become smaller; lower cross_rank or deep_rank")
    return found


LOW_RANK = reforming("low_rank", forms_of)
