"""A smaller model of the same architecture, made beside the one whose weights it will take over."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from leanrec.errors import CompressionError
from leanrec.models.inputs import blank_items
from leanrec.models.layers import MLP
from leanrec.models.ranking.dcn_v2 import CrossNetwork
from leanrec.models.recommender import Recommender


def narrower(recommender: Recommender, widths: dict[str, dict[str, Any]]) -> Recommender:
    """A recommender whose `retriever` and `ranker` settings are changed by `widths`.

    Weights whose shape did not change are those of `recommender`; the others are still to be filled. Raises a
    CompressionError when `recommender` is not plain.
    """
    require_plain(recommender)
    parts = {
        part: getattr(recommender.settings, part).model_copy(update=update) for part, update in widths.items()
    }
    settings = recommender.settings.model_copy(update=parts)
    width = recommender.retriever.category_indices.shape[1]
    small = Recommender(recommender.spec, settings, blank_items(recommender.spec.num_items, width))
    theirs = recommender.state_dict()
    with torch.no_grad():
        for name, value in small.state_dict().items():
            if value.shape == theirs[name].shape:
                value.copy_(theirs[name])
    return small


def require_plain(recommender: Recommender) -> None:
    """Raise a CompressionError when a layer or table has another form: such have no neurons or columns."""
    if recommender.forms:
        path, sizes = next(iter(recommender.forms.items()))
        raise CompressionError(
            f"{path} has the form {sizes['form']} already, so it cannot be pruned; prune before that"
        )


def layers_of(part: MLP | CrossNetwork) -> list[nn.Linear]:
    """The linear layers of a deep or cross network, first to last."""
    return [layer for layer in part.modules() if isinstance(layer, nn.Linear)]
