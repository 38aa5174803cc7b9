"""Which items of an answer stay, and in which order: pure functions over (item_index, score) pairs."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from itertools import islice

import numpy as np

from leanrec.release.catalogue import Catalogue
from leanrec.schema import UNKNOWN_INDEX

Scored = list[tuple[int, float]]
"""Item indices with their scores, best first."""


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What a caller does not want to see: `seen` and `excluded` item indices, and other `categories`."""

    seen: Set[int] = frozenset()
    excluded: Set[int] = frozenset()
    categories: Set[str] = frozenset()
    """None: any category."""

    def passing(self, items: Iterable[int], catalogue: Catalogue) -> Iterable[int]:
        """The `items` that stay, in their order."""
        return (
            item
            for item in items
            if item != UNKNOWN_INDEX
            and item not in self.seen
            and item not in self.excluded
            and (not self.categories or not self.categories.isdisjoint(catalogue.categories[item]))
        )

    def scored(
        self, items: np.ndarray, scores: np.ndarray, catalogue: Catalogue, most: int | None = None
    ) -> Scored:
        """What stays of a model's answer, items [K] and scores [K], best first; the first `most` of it."""
        score_of = dict(zip(items.tolist(), scores.tolist(), strict=True))
        return [(item, score_of[item]) for item in islice(self.passing(score_of, catalogue), most)]

    def popular(self, k: int, catalogue: Catalogue) -> Scored:
        """The `k` most liked items that stay, with their likes relative to the most liked one."""
        items = islice(self.passing(catalogue.by_popularity, catalogue), k)
        return [(item, catalogue.popularity(item)) for item in items]


def diversify(scored: Scored, k: int, diversity: float, vectors: np.ndarray) -> Scored:
    """`k` of the items in the order of their maximal marginal relevance; `vectors` [N, D] have length 1.

    Each next item is the one with the greatest (1 - diversity) * relevance - diversity * (greatest cosine
    to an item taken before); relevance is the score relative to the best one. Diversity 0 keeps the order.

    Source: Carbonell and Goldstein, "The Use of MMR", SIGIR 1998.
    """
    if diversity == 0 or len(scored) <= 1:
        return scored[:k]
    relevance = np.array([score for _, score in scored])
    relevance = relevance / max(float(np.abs(relevance).max()), 1e-12)
    pool = vectors[[item for item, _ in scored]]
    nearest = np.zeros(len(scored))
    taken: list[int] = []
    for _ in range(min(k, len(scored))):
        worth = (1 - diversity) * relevance - diversity * nearest
        worth[taken] = -np.inf
        best = int(worth.argmax())
        cosines = pool @ pool[best]
        nearest = np.maximum(nearest, cosines) if taken else cosines
        taken.append(best)
    return [scored[position] for position in taken]
