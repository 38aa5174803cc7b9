"""From scores over the whole catalogue to lists: seen items left out, best first, ties settled."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from leanrec.evaluation.metrics import Ints
from leanrec.schema import UNKNOWN_INDEX

SCORES_AT_ONCE = 1 << 25
"""Scores held in memory at a time (users x items)."""


def best_items(scores: npt.ArrayLike, seen: Ints, k: int) -> Ints:
    """The `k` items with the highest scores [B, N] that are not in `seen` [B, L], best first, [B, k].

    Equal scores: the lower index first. Where fewer than `k` items are left, the rest is 0.
    """
    masked = np.array(scores, dtype=np.float64)
    masked[:, UNKNOWN_INDEX] = -np.inf
    np.put_along_axis(masked, seen, -np.inf, axis=1)
    k = min(k, masked.shape[1] - 1)
    last = -np.partition(-masked, k - 1, axis=1)[:, k - 1 : k]
    above, tied = masked > last, masked == last
    free = k - above.sum(axis=1, keepdims=True)
    kept = above | (tied & (tied.cumsum(axis=1) <= free))
    candidates = np.nonzero(kept)[1].reshape(-1, k)
    found = np.take_along_axis(masked, candidates, axis=1)
    order = np.argsort(-found, axis=1, kind="stable")
    items = np.take_along_axis(candidates, order, axis=1)
    return np.where(np.isneginf(np.take_along_axis(found, order, axis=1)), UNKNOWN_INDEX, items)


def user_batches(num_users: int, num_items: int, *, at_most: int | None = None) -> Iterator[slice]:
    """Slices of users, `at_most` so many, such that their scores over all items fit into memory."""
    size = max(1, min(SCORES_AT_ONCE // num_items, at_most or num_users))
    for start in range(0, num_users, size):
        yield slice(start, min(start + size, num_users))
