"""The parts of a model, for methods that know the inside of one architecture and must refuse the others."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from leanrec.errors import CompressionError
from leanrec.models.recommender import Recommender

Part = TypeVar("Part", bound=nn.Module)


def retriever_as(kind: type[Part], recommender: Recommender, method: str) -> Part:
    """The retriever, which must be a `kind`; a CompressionError names the method that cannot be used."""
    return _as(kind, recommender.retriever, method, recommender.settings.retriever.model)


def ranker_as(kind: type[Part], recommender: Recommender, method: str) -> Part:
    """The ranker, which must be a `kind`; a CompressionError names the method that cannot be used."""
    return _as(kind, recommender.ranker, method, recommender.settings.ranker.model)


def _as(kind: type[Part], part: nn.Module, method: str, model: str) -> Part:
    if not isinstance(part, kind):
        raise CompressionError(
            f"{method} knows the inside of {kind.__name__}, and this model's part is {model!r}; "
            "leave the method out of the recipe"
        )
    return part
