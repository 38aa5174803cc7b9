"""The figures of a recommender, as pure functions of arrays.

Ranking metrics take `relevance`, a boolean array [B, K]: is the item at this place of this user's
list relevant? They answer one number a user, [B], so that means, segments and bootstrap intervals
all come from the same numbers. Score metrics take one label and one score a rated pair, [P].

Sources: Järvelin and Kekäläinen 2002 (NDCG); Naeini et al. 2015 and Nixon et al. 2019 (expected
calibration error with bins of equal mass).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sklearn_metrics

from leanrec.errors import DataError
from leanrec.schema import UNKNOWN_INDEX

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

NUM_BINS = 15
"""Bins of the calibration error."""

NUM_ROC_POINTS = 100
"""Points that a ROC curve is drawn by."""


def relevance_of(lists: Ints, relevant: Sequence[Ints], num_items: int) -> Bools:
    """Which items of each list are relevant, [B, K].

    `lists` [B, K] holds item indices, best first; 0 is an empty place. `relevant` holds B arrays of
    item indices below `num_items`. An item that a list repeats counts once, at its first place.
    """
    lists = np.asarray(lists)
    _require(
        lists.ndim == 2 and lists.size > 0, f"lists: the shape is {lists.shape}, expected users x places"
    )
    _require(
        len(relevant) == len(lists), f"relevant: {len(relevant)} users, but there are {len(lists)} lists"
    )
    inside = (lists >= 0) & (lists < num_items)
    _require(bool(inside.all()), f"lists: {int((~inside).sum())} item indices are not below {num_items}")
    rows = np.arange(len(lists), dtype=np.int64)
    keys = rows[:, None] * num_items + lists
    wanted = np.repeat(rows, [len(items) for items in relevant]) * num_items + _concatenate(relevant)
    found = np.isin(keys, wanted) & (lists != UNKNOWN_INDEX)
    first = np.zeros(keys.size, dtype=bool)
    first[np.unique(keys, return_index=True)[1]] = True
    return found & first.reshape(keys.shape)


def recall_at(relevance: Bools, num_relevant: Ints, k: int) -> Floats:
    """The share of a user's relevant items that the first `k` places hold, [B]."""
    _check_lists(relevance, num_relevant, k)
    return np.asarray(relevance[:, :k].sum(axis=1) / np.asarray(num_relevant, dtype=np.float64))


def ndcg_at(relevance: Bools, num_relevant: Ints, k: int) -> Floats:
    """Discounted gain of the first `k` places over that of the best possible list, [B]."""
    _check_lists(relevance, num_relevant, k)
    discounts = 1.0 / np.log2(np.arange(k) + 2.0)
    gain = relevance[:, :k] @ discounts[: relevance.shape[1]]
    ideal = np.cumsum(discounts)[np.minimum(num_relevant, k) - 1]
    return np.asarray(gain / ideal)


def hit_rate_at(relevance: Bools, num_relevant: Ints, k: int) -> Floats:
    """1 where the first `k` places hold a relevant item, else 0, [B]."""
    _check_lists(relevance, num_relevant, k)
    return np.asarray(relevance[:, :k].any(axis=1), dtype=np.float64)


def mrr_at(relevance: Bools, num_relevant: Ints, k: int) -> Floats:
    """1 / place of the first relevant item within `k` places, 0 where there is none, [B]."""
    _check_lists(relevance, num_relevant, k)
    head = relevance[:, :k]
    return np.asarray(np.where(head.any(axis=1), 1.0 / (head.argmax(axis=1) + 1.0), 0.0))


def coverage_at(lists: Ints, k: int, num_items: int) -> float:
    """The share of the catalogue (`num_items` counts the unknown item 0) that some list shows."""
    _require(num_items > 1, f"num_items: {num_items}; a catalogue has at least one item beside the unknown")
    shown = np.unique(np.asarray(lists)[:, :k])
    return float((shown != UNKNOWN_INDEX).sum() / (num_items - 1))


def auc(liked: Bools, score: Floats) -> float:
    """The chance that a liked pair scores above one that is not; ties count half."""
    liked, score = _labels_and_scores("score", liked, score)
    _require(
        0 < liked.sum() < liked.size,
        f"auc: {liked.sum()} of {liked.size} pairs are liked; it needs both kinds",
    )
    return float(sklearn_metrics.roc_auc_score(liked, score))


def roc_curve(liked: Bools, score: Floats, num_points: int = NUM_ROC_POINTS) -> dict[str, list[float]]:
    """The ROC curve: `fpr`, `tpr`, `threshold`, each [at most num_points], from (0, 0) to (1, 1).

    Thresholds fall; the first one is above every score. Of a longer curve evenly spaced points are kept.
    """
    liked, score = _labels_and_scores("score", liked, score)
    _require(
        0 < liked.sum() < liked.size,
        f"roc curve: {liked.sum()} of {liked.size} pairs are liked; it needs both kinds",
    )
    fpr, tpr, threshold = sklearn_metrics.roc_curve(liked, score)
    threshold[0] = np.nextafter(score.max(), np.inf)  # scikit-learn says infinity, which JSON lacks
    kept = np.unique(np.linspace(0, fpr.size - 1, num_points).round().astype(np.int64))
    return {"fpr": fpr[kept].tolist(), "tpr": tpr[kept].tolist(), "threshold": threshold[kept].tolist()}


def log_loss(liked: Bools, probability: Floats) -> float:
    """Mean negative log likelihood of the labels, in nats."""
    liked, probability = _labels_and_probabilities(liked, probability)
    return float(sklearn_metrics.log_loss(liked, probability, labels=[False, True]))


def rmse(rating: Floats, predicted: Floats) -> float:
    """Root mean squared error, in the unit of the ratings."""
    rating, predicted = _finite("rating", rating), _finite("predicted rating", predicted)
    _require(
        rating.shape == predicted.shape, f"rmse: {rating.size} ratings, but {predicted.size} predictions"
    )
    return float(sklearn_metrics.root_mean_squared_error(rating, predicted))


@dataclass(frozen=True, kw_only=True)
class CalibrationPoint:
    """One bin: mean predicted probability, share observed, number of pairs."""

    predicted: float
    observed: float
    count: int


def calibration_curve(liked: Bools, probability: Floats, num_bins: int = NUM_BINS) -> list[CalibrationPoint]:
    """Predicted against observed in bins of equal mass, lowest first.

    Equal probabilities never part, so the curve does not depend on the order of the pairs; with
    many ties there are fewer bins.
    """
    liked, probability = _labels_and_probabilities(liked, probability)
    edges = np.unique(np.quantile(probability, np.linspace(0, 1, num_bins + 1)[1:-1]))
    bins = np.searchsorted(edges, probability, side="left")
    counts = np.bincount(bins)
    predicted = np.bincount(bins, weights=probability)
    observed = np.bincount(bins, weights=liked)
    return [
        CalibrationPoint(
            predicted=predicted[b] / counts[b], observed=observed[b] / counts[b], count=int(counts[b])
        )
        for b in np.flatnonzero(counts)
    ]


def expected_calibration_error(liked: Bools, probability: Floats, num_bins: int = NUM_BINS) -> float:
    """Mean |predicted - observed| over the bins of `calibration_curve`, weighted by their pairs."""
    points = calibration_curve(liked, probability, num_bins)
    total = sum(point.count for point in points)
    return float(sum(abs(point.predicted - point.observed) * point.count for point in points) / total)


def _check_lists(relevance: Bools, num_relevant: Ints, k: int) -> None:
    _require(k >= 1, f"k: {k}; a list has at least one place")
    _require(
        relevance.ndim == 2 and relevance.size > 0, f"relevance: the shape is {relevance.shape}, so no user"
    )
    num_relevant = np.asarray(num_relevant)
    _require(num_relevant.shape == relevance.shape[:1], "num_relevant: one number for each list is needed")
    _require(bool((num_relevant > 0).all()), "num_relevant: a user without a relevant item cannot be judged")


def _labels_and_scores(name: str, liked: Bools, score: Floats) -> tuple[Bools, Floats]:
    score = _finite(name, score)
    labels = _finite("liked", liked)
    _require(labels.shape == score.shape, f"{name}: {score.size} values, but {labels.size} labels")
    _require(bool(np.isin(labels, (0.0, 1.0)).all()), "liked: labels must be 0 or 1")
    return labels.astype(bool), score


def _labels_and_probabilities(liked: Bools, probability: Floats) -> tuple[Bools, Floats]:
    labels, values = _labels_and_scores("probability", liked, probability)
    inside = (values >= 0) & (values <= 1)
    _require(
        bool(inside.all()), f"probability: {int((~inside).sum())} of {values.size} values are outside 0..1"
    )
    return labels, values


def _finite(name: str, values: npt.ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64).reshape(-1)
    _require(array.size > 0, f"{name}: there are no values, so nothing to measure; is the split empty?")
    bad = int((~np.isfinite(array)).sum())
    _require(bad == 0, f"{name}: {bad} of {array.size} values are NaN or infinite; did training diverge?")
    return array


def _concatenate(arrays: Sequence[Ints]) -> Ints:
    return np.concatenate([np.asarray(a, dtype=np.int64) for a in arrays])


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise DataError(sentence)
