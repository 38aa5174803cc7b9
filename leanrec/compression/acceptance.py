"""The gate of the chosen recipe: what is released must be better than the baselines, too.

Everything is judged on the test split, all users, by the protocol that judged the baselines; the graphs
answer one user at a time, as they are served.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from leanrec.compression.measure import NDCG, Candidate, losses, quality_of
from leanrec.config import CompressionSettings
from leanrec.errors import ExportError
from leanrec.evaluation.bootstrap import (
    Interval,
    bootstrap_auc_difference,
    bootstrap_difference,
    bootstrap_mean,
)
from leanrec.evaluation.comparison import NOT_A_NUMBER, loss_check
from leanrec.evaluation.evaluate import EVALUATION_FILE
from leanrec.evaluation.protocol import Protocol, ndcg_per_user
from leanrec.files import finite, read_json
from leanrec.gates import Check, above


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """What one candidate is worth on the test split."""

    recipe: str
    quality: dict[str, float]
    """AUC, log loss, calibration error and NDCG@10."""
    ndcg: np.ndarray
    """NDCG@10 of each user, [B]."""
    like: np.ndarray
    """P(like) of each rated pair, [P]."""


def judge(candidate: Candidate, protocol: Protocol) -> Judged:
    """Ask `candidate` everything in `protocol`."""
    lists = candidate.recommender.run_in_batches(protocol.requests, 1)["item_index"]
    like, rating = candidate.rate(protocol.pairs)
    return Judged(
        recipe=candidate.recipe,
        quality=quality_of(lists, like, rating, protocol),
        ndcg=ndcg_per_user(lists, protocol),
        like=like,
    )


def read_baselines(evaluation: Path) -> dict[str, float]:
    """NDCG@10 of every baseline that must be beaten, from the `evaluation` folder.

    Raises an ExportError when the evaluation does not say.
    """
    path = Path(evaluation) / EVALUATION_FILE
    try:
        figures = read_json(path)
        return {name: float(figures["retrieval"][name][NDCG]) for name in figures["must_beat"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(
            f"{path}: it does not say what the baselines reach ({error!r}); evaluate the models again"
        ) from None


def decide(
    settings: CompressionSettings,
    chosen: Judged,
    uncompressed: Judged,
    protocol: Protocol,
    baselines: dict[str, float],
) -> tuple[list[Check], dict[str, Any]]:
    """The gate's checks, and the loss intervals behind them.

    Baselines: the figure itself decides, strictly above. A loss: the valid split chose the recipe under the
    floor; the test split is a second sample of some hundred users, on which the best of several recipes
    lands beyond the floor by chance alone now and then. So the check is missed only when the whole 95 %
    interval (paired, over users) lies beyond the floor: then it is not chance. A score that is not a number
    misses both.
    """
    lost = losses(chosen.quality, uncompressed.quality)
    ours = chosen.quality[NDCG]
    within = bootstrap_mean(chosen.ndcg)
    checks = [
        above(
            f"{NDCG} of {chosen.recipe} against {name}",
            ours,
            theirs,
            f"95 % interval {within.low:.4f} to {within.high:.4f}; what is released must be better than "
            f"{name}: tune training, or do not release it",
        )
        for name, theirs in baselines.items()
    ]
    intervals = dict.fromkeys(("auc_loss", "ndcg_loss"), NOT_A_NUMBER)
    if _is_of_numbers(chosen) and _is_of_numbers(uncompressed):
        intervals = {
            "auc_loss": _auc_loss(chosen, uncompressed, protocol),
            "ndcg_loss": _ndcg_loss(chosen, uncompressed),
        }
    else:
        lost = dict.fromkeys(intervals, math.nan)
    floors = {"auc_loss": settings.max_auc_loss, "ndcg_loss": settings.max_ndcg_loss}
    words = {"auc_loss": "AUC", "ndcg_loss": f"share of {NDCG}"}
    checks += [
        loss_check(
            f"{words[name]} that {chosen.recipe} loses on test",
            replace(interval, value=lost[name]),
            floors[name],
            "a recipe whose loss is beyond the floor by more than chance, or not a number, should leave "
            "compression.recipes, or the floor be raised",
        )
        for name, interval in intervals.items()
    ]
    return checks, {name: finite({"low": i.low, "high": i.high}) for name, i in intervals.items()}


def _is_of_numbers(judged: Judged) -> bool:
    return bool(np.isfinite(judged.like).all()) and all(map(math.isfinite, judged.quality.values()))


def _auc_loss(chosen: Judged, uncompressed: Judged, protocol: Protocol) -> Interval:
    pairs = protocol.pairs
    return bootstrap_auc_difference(pairs.liked, uncompressed.like, chosen.like, pairs.user)


def _ndcg_loss(chosen: Judged, uncompressed: Judged) -> Interval:
    """As a share of the uncompressed form's mean, which is taken as given; 0 where that is 0."""
    lost = bootstrap_difference(uncompressed.ndcg, chosen.ndcg)
    mean = float(uncompressed.ndcg.mean()) or 1.0
    return Interval(value=lost.value / mean, low=lost.low / mean, high=lost.high / mean)
