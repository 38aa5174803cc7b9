"""How far two answers to the same requests lie apart: pure functions of tensors.

B users · K items of a list · C candidates
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from leanrec.schema import UNKNOWN_INDEX

TOP = 10
Tensors = Mapping[str, np.ndarray]


def ranker_difference(candidates: np.ndarray, expected: Tensors, answered: Tensors) -> float:
    """The largest |difference| of `score` over the candidates [B, C]; NaN if one is not finite."""
    difference = np.abs(expected["score"].astype(np.float64) - answered["score"])
    return float(difference[candidates != UNKNOWN_INDEX].max(initial=0.0))


def recommender_difference(expected: Tensors, answered: Tensors) -> float:
    """The largest |difference| of `score` over the items of both lists [B, K].

    An item that only one list holds counts with what its score has above the other list's last one: not being
    in a list says no more of an item than that it is not above the last.
    """
    largest = 0.0
    for user in range(len(expected["score"])):
        ours, theirs = _scores_by_item(expected, user), _scores_by_item(answered, user)
        found = [abs(ours[item] - theirs[item]) for item in ours.keys() & theirs.keys()]
        found += _above_the_last(ours, theirs) + _above_the_last(theirs, ours)
        largest = float(np.max([largest, *found]))
    return largest


def share_of_same_top(expected: Tensors, answered: Tensors, tie: float) -> float:
    """The share of users whose ten best items are the same, but for items within `tie` of the tenth place."""
    same = [
        _same_top(_scores_by_item(expected, user), _scores_by_item(answered, user), tie)
        for user in range(len(expected["score"]))
    ]
    return float(np.mean(same)) if same else 1.0


def _scores_by_item(tensors: Tensors, user: int) -> dict[int, float]:
    items, scores = tensors["item_index"][user].tolist(), tensors["score"][user].tolist()
    return {item: score for item, score in zip(items, scores, strict=True) if item != UNKNOWN_INDEX}


def _above_the_last(held: dict[int, float], other: dict[int, float]) -> list[float]:
    last = min(other.values(), default=0.0)
    return [max(0.0, score - last) for item, score in held.items() if item not in other]


def _same_top(ours: dict[int, float], theirs: dict[int, float], tie: float) -> bool:
    tops = list(ours)[:TOP], list(theirs)[:TOP]
    if len(tops[0]) != len(tops[1]):
        return False
    return all(
        scores[item] - scores[top[-1]] <= tie
        for scores, top, other in ((ours, tops[0], tops[1]), (theirs, tops[1], tops[0]))
        for item in set(top) - set(other)
    )
