"""A smaller model of the same architecture, made beside the one whose weights it will take over."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from leanrec.errors import CompressionError
from leanrec.models.inputs import ItemInputs
from leanrec.models.layers import MLP
from leanrec.models.ranking.dcn_v2 import CrossNetwork
from leanrec.models.recommender import Recommender


def narrower(recommender: Recommender, widths: dict[str, dict[str, Any]]) -> Recommender:
    """A recommender whose `retriever` and `ranker` settings are changed by `widths`.

    Weights whose shape did not change are those of `recommender`; the others are still to be filled. Raises a
    CompressionError when some layer or table has another form already: such have no neurons or columns of
    their own.
    """
    if recommender.forms:
        path, sizes = next(iter(recommender.forms.items()))
        raise CompressionError(
            f"{path} has the form {sizes['form']} already, so it cannot be pruned; prune before that"
        )
    parts = {
        part: getattr(recommender.settings, part).model_copy(update=update) for part, update in widths.items()
    }
    settings = recommender.settings.model_copy(update=parts)
    small = Recommender(recommender.spec, settings, items_of(recommender))
    theirs = recommender.state_dict()
    with torch.no_grad():
        for name, value in small.state_dict().items():
            if value.shape == theirs[name].shape:
                value.copy_(theirs[name])
    return small


def items_of(recommender: Recommender) -> ItemInputs:
    """A blank item table of the right size; a state dict or a copy fills it."""
    indices = recommender.retriever.category_indices
    return ItemInputs(
        category_indices=torch.zeros_like(indices),
        release_year=torch.zeros(len(indices)),
        statistics=torch.zeros(len(indices), 3),
    )


def layers_of(part: MLP | CrossNetwork) -> list[nn.Linear]:
    """The linear layers of a deep or cross network, first to last."""
    return [layer for layer in part.modules() if isinstance(layer, nn.Linear)]
