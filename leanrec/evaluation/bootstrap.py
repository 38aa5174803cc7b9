"""Bootstrap intervals over users: how sure is a figure, or a difference of two?

Users are drawn again with replacement, and a user's events stay together (the cluster bootstrap,
Field and Welsh 2007), since events of one user are not independent. A difference is paired: both
models are judged on the same draws of users.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from leanrec.errors import DataError
from leanrec.evaluation.metrics import Bools, Floats, Ints

NUM_RESAMPLES = 1000
CONFIDENCE = 0.95
SEED = 20


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure and the interval that holds it with 95 % confidence."""

    value: float
    low: float
    high: float


def bootstrap_mean(per_user: Floats, *, seed: int = SEED, num_resamples: int = NUM_RESAMPLES) -> Interval:
    """The mean of one number a user, [B]."""
    per_user = np.asarray(per_user, dtype=np.float64)
    if per_user.size == 0 or not np.isfinite(per_user).all():
        raise DataError("bootstrap: the figures of the users are empty or not all finite")
    draws = [
        float(weights @ per_user) / per_user.size for weights in _draw(per_user.size, seed, num_resamples)
    ]
    return _interval(float(per_user.mean()), draws)


def bootstrap_difference(
    ours: Floats, theirs: Floats, *, seed: int = SEED, num_resamples: int = NUM_RESAMPLES
) -> Interval:
    """The mean of `ours` - `theirs`, both one number a user, [B], in the same order of users."""
    ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if ours.shape != theirs.shape:
        raise DataError(
            f"bootstrap: {ours.size} users against {theirs.size}; a paired test needs the same users"
        )
    return bootstrap_mean(ours - theirs, seed=seed, num_resamples=num_resamples)


def bootstrap_auc(
    liked: Bools, score: Floats, user: Ints, *, seed: int = SEED, num_resamples: int = NUM_RESAMPLES
) -> Interval:
    """AUC over rated pairs, [P]; `user` [P] says whose each pair is."""
    auc = _WeightedAuc(liked, score)
    users, index = np.unique(user, return_inverse=True)
    draws = [auc(weights[index]) for weights in _draw(users.size, seed, num_resamples)]
    return _interval(auc(np.ones(index.size)), draws)


def bootstrap_auc_difference(
    liked: Bools,
    ours: Floats,
    theirs: Floats,
    user: Ints,
    *,
    seed: int = SEED,
    num_resamples: int = NUM_RESAMPLES,
) -> Interval:
    """AUC of `ours` - AUC of `theirs` on the same pairs, [P]."""
    first, second = _WeightedAuc(liked, ours), _WeightedAuc(liked, theirs)
    users, index = np.unique(user, return_inverse=True)
    draws = [
        first(weights[index]) - second(weights[index]) for weights in _draw(users.size, seed, num_resamples)
    ]
    even = np.ones(index.size)
    return _interval(first(even) - second(even), draws)


class _WeightedAuc:
    """AUC as a function of the pairs' weights; the scores are sorted once, for all draws."""

    def __init__(self, liked: Bools, score: Floats) -> None:
        score = np.asarray(score, dtype=np.float64)
        if score.size == 0 or not np.isfinite(score).all():
            raise DataError("bootstrap: the scores are empty or not all finite")
        self.order = np.argsort(score, kind="stable")
        ordered = score[self.order]
        self.starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        self.liked = np.asarray(liked, dtype=np.float64)[self.order]

    def __call__(self, weights: Floats) -> float:
        """AUC under `weights` [P]; NaN where a draw holds labels of one kind only."""
        weights = weights[self.order]
        # One entry for each distinct score: the weight of liked and of other pairs that have it.
        positive = np.add.reduceat(weights * self.liked, self.starts)
        negative = np.add.reduceat(weights * (1.0 - self.liked), self.starts)
        below = np.cumsum(negative) - negative
        total = positive.sum() * negative.sum()
        return float(positive @ (below + negative / 2) / total) if total else float("nan")


def _draw(num_users: int, seed: int, num_resamples: int) -> Iterator[Floats]:
    """How often each user is drawn, [B], once for each draw."""
    generator = np.random.default_rng(seed)
    for _ in range(num_resamples):
        drawn = generator.integers(num_users, size=num_users)
        yield np.bincount(drawn, minlength=num_users).astype(np.float64)


def _interval(value: float, draws: list[float]) -> Interval:
    kept = np.asarray(draws)
    kept = kept[np.isfinite(kept)]
    if kept.size == 0:
        raise DataError(
            "bootstrap: no draw of users holds both liked and other pairs; the split is too small"
        )
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(kept, [tail, 1 - tail])
    return Interval(value=value, low=float(low), high=float(high))
