"""Retrievers, one file each; a line in `RETRIEVERS` makes one known, by the name that settings give it."""

from leanrec.models.retrieval.retriever import Retriever
from leanrec.models.retrieval.two_tower import TwoTower

RETRIEVERS: dict[str, type[Retriever]] = {
    "two_tower": TwoTower,
}
"""Name -> class; each is made as `cls(spec, settings.retriever, items)`."""
