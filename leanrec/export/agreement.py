"""How far the answers of a graph or a server lie from the trainer's: pure functions of two sets of tensors.

B users · K items of a list · C candidates
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from leanrec.schema import UNKNOWN_INDEX

TOP = 10
TIE = 1e-6
"""Scores this close are equal: the order in which floats are added decides between them."""
SHOWN = 1e-3
"""A score below this share of the user's best counts as that: such an item is shown to nobody."""
LEAST = 1e-9
"""Differences below are shown together: a float32 score of this size has no digit left to differ in."""
Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class Differences:
    """What separates the answers from the trainer's for one model."""

    scores: np.ndarray
    """|trainer - answer| of every score compared."""
    same_top_10: float | None
    """Share of users with the same ten items; None for the ranker, whose candidates are given."""
    shared_top_10: float | None
    """Share of the trainer's ten items that are in the answer's ten too, mean over users; None likewise."""
    ratios: np.ndarray
    """The greater over the lesser of the trainer's and the answer's score, of every item that both hold."""

    @property
    def largest(self) -> float:
        """The largest difference; NaN when a score is not a number."""
        return float(self.scores.max(initial=0.0))

    @property
    def largest_ratio(self) -> float:
        """The largest ratio; NaN when a score is not a number or nothing could be compared."""
        return float(self.ratios.max()) if self.ratios.size else math.nan


def compare_recommender(trainer: Tensors, answer: Tensors, tie: float = TIE) -> Differences:
    """Compare lists of `item_index` and `score` [B, K]; entries with item 0 are padding.

    Scores are compared item by item. Of an item that only one list holds, the other list says no more
    than that its score is not above its own last one; so it counts with what it has above that.

    The ten items are the same when each item of one ten is in the other ten too, or scores there no
    more than `tie` below the tenth: equals at the edge may change places.
    """
    differences: list[float] = []
    ratios = [np.empty(0)]
    shared: list[float] = []
    same = 0
    for user in range(len(trainer["score"])):
        ours, theirs = _scores_by_item(trainer, user), _scores_by_item(answer, user)
        both = sorted(ours.keys() & theirs.keys())
        differences += [abs(ours[item] - theirs[item]) for item in both]
        if both:
            best = max(ours.values())
            ratios.append(_ratios([ours[i] for i in both], [theirs[i] for i in both], best))
        if ours:
            top = set(list(ours)[:TOP])
            shared.append(len(top & set(list(theirs)[:TOP])) / len(top))
        differences += _only_in(ours, theirs) + _only_in(theirs, ours)
        same += _same_top(ours, theirs, tie)
    return Differences(
        scores=np.array(differences),
        same_top_10=same / max(1, len(trainer["score"])),
        shared_top_10=float(np.mean(shared)) if shared else 0.0,
        ratios=np.concatenate(ratios),
    )


def compare_ranker(trainer: Tensors, answer: Tensors) -> Differences:
    """Compare `score` [B, C] of the candidates."""
    ours, theirs = (tensors["score"].astype(np.float64) for tensors in (trainer, answer))
    return Differences(
        scores=np.abs(ours - theirs).ravel(),
        same_top_10=None,
        shared_top_10=None,
        ratios=_ratios(ours, theirs, ours.max(axis=1, keepdims=True)).ravel(),
    )


def histogram(differences: np.ndarray) -> dict[str, list[float]]:
    """Edges (n + 1) and counts (n) of the finite differences: 0 to `LEAST`, then three bins a power of ten.

    Most scores agree to the float's last digits and a few do not: bins of equal width would hide both.
    """
    finite = differences[np.isfinite(differences)]
    largest = max(float(finite.max(initial=0.0)), 10 * LEAST)
    bins = math.ceil(3 * math.log10(largest / LEAST))
    edges = np.concatenate([[0.0], LEAST * 10 ** (np.arange(bins + 1) / 3)])
    edges[-1] = max(edges[-1], largest)
    counts, _ = np.histogram(finite, bins=edges)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def _scores_by_item(tensors: Tensors, user: int) -> dict[int, float]:
    """Scores by item, best first."""
    items, scores = tensors["item_index"][user], tensors["score"][user]
    return {int(i): float(s) for i, s in zip(items, scores, strict=True) if i != UNKNOWN_INDEX}


def _ratios(ours: ArrayLike, theirs: ArrayLike, best: ArrayLike) -> np.ndarray:
    """The greater over the lesser, both at least `SHOWN` times the user's `best`."""
    floor = np.maximum(SHOWN * np.asarray(best, dtype=np.float64), np.finfo(np.float32).tiny)
    first, second = np.maximum(ours, floor), np.maximum(theirs, floor)
    return np.asarray(np.maximum(first, second) / np.minimum(first, second))


def _only_in(held: dict[int, float], other: dict[int, float]) -> list[float]:
    if not other:
        return [float("inf")] * len(held)
    last = min(other.values())
    return [float(np.maximum(0.0, score - last)) for item, score in held.items() if item not in other]


def _same_top(ours: dict[int, float], theirs: dict[int, float], tie: float) -> bool:
    return _reaches_top(ours, theirs, tie) and _reaches_top(theirs, ours, tie)


def _reaches_top(held: dict[int, float], other: dict[int, float], tie: float) -> bool:
    """Whether the ten items of `held` are among the ten of `other`, or level with its tenth."""
    tenth = [score for _, score in list(other.items())[:TOP]][-1:]
    return all(item in other and other[item] >= tenth[0] - tie for item in list(held)[:TOP])
