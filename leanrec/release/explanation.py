"""Why is this item shown? What each part of the user row does for its score, by taking the part away.

Occlusion (Zeiler and Fergus 2014, arXiv:1311.2901) on the served `ranker`: the row is asked once whole and
once without each part, and a part's effect is the share of the score that goes with it. Parts work together,
so effects do not add up to the score; each one says what its own removal changes, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from leanrec.errors import ServingError
from leanrec.features.rows import UserRow
from leanrec.schema import UNKNOWN_INDEX

Score = Callable[[UserRow, Sequence[int]], np.ndarray]
"""Scores [C] of candidate items (item indices) for a user row."""

HISTORY, ATTRIBUTE, IDENTITY, STATISTICS = "history", "attribute", "identity", "statistics"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a user row, and the row without it."""

    kind: str
    """history: one event; attribute: one of them; identity: the user's embedding; statistics: the counts."""
    name: str
    """Of the attribute; else empty."""
    item_index: int
    """The item of a history event; else 0."""
    without: UserRow


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What one part does for the score of one item."""

    kind: str
    name: str
    item_index: int
    share: float
    """1 - score without / score: 0.2 is a fifth of the score; below 0 the part speaks against the item."""


def parts_of(row: UserRow) -> list[Part]:
    """Every event of the history, every known attribute, the identity and the statistics."""
    parts = [
        Part(
            kind=HISTORY,
            name="",
            item_index=int(row.history[place]),
            without=replace(
                row,
                history=np.delete(row.history, place),
                history_ratings=np.delete(row.history_ratings, place),
            ),
        )
        for place in range(len(row.history))
    ]
    for name, index in row.user_attributes.items():
        if index != UNKNOWN_INDEX:
            others = {**row.user_attributes, name: UNKNOWN_INDEX}
            parts.append(
                Part(kind=ATTRIBUTE, name=name, item_index=0, without=replace(row, user_attributes=others))
            )
    if row.user_index != UNKNOWN_INDEX:
        without = replace(row, user_index=UNKNOWN_INDEX)
        parts.append(Part(kind=IDENTITY, name="", item_index=0, without=without))
    if np.any(row.user_statistics):
        without = replace(row, user_statistics=np.zeros_like(row.user_statistics))
        parts.append(Part(kind=STATISTICS, name="", item_index=0, without=without))
    return parts


def explain(row: UserRow, items: Sequence[int], score: Score) -> list[list[Effect]]:
    """The effects of every part on each of `items`, largest first; one request a part.

    Raises a ServingError when a score is not a number above 0, for then no share of it exists.
    """
    whole = _positive(score(row, items))
    parts = parts_of(row)
    shares = [1.0 - np.asarray(score(part.without, items), dtype=np.float64) / whole for part in parts]
    return [
        sorted(
            (
                Effect(kind=part.kind, name=part.name, item_index=part.item_index, share=float(share[place]))
                for part, share in zip(parts, shares, strict=True)
            ),
            key=lambda effect: -abs(effect.share),
        )
        for place in range(len(items))
    ]


def _positive(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, dtype=np.float64)
    if not (np.isfinite(scores) & (scores > 0)).all():
        raise ServingError(
            f"scores {scores.tolist()} cannot be explained by shares; every one must be a number above 0"
        )
    return scores
