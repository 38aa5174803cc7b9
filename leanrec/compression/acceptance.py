"""What the test split says: it may set a recipe aside that the valid split chose, and holds the gate.

Everything is judged on the test split, all users, by the protocol that judged the baselines; the graphs
answer one user at a time, as they are served.

`accept` asks one recipe after another, in the order in which the valid split prefers them, and stops at the
first that keeps its floor. The uncompressed form is last and loses nothing, so there is always one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from leanrec.compression.measure import NDCG, Candidate, losses, quality_of
from leanrec.compression.selection import Choice, Measured, choose
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
from leanrec.files import read_json
from leanrec.gates import Check, above

FLOORS = {"auc_loss": "max_auc_loss", "ndcg_loss": "max_ndcg_loss"}
"""Loss -> the setting that bounds it."""


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Accepted:
    """Which recipe is released, and what the test split said of every one that it was asked about."""

    choice: Choice
    judged: dict[str, Judged]
    """The baseline, then the others in the order in which they were asked."""
    lost: dict[str, dict[str, Interval]]
    """`auc_loss` and `ndcg_loss` of each recipe that was chosen, in that order; the last one is released."""

    @property
    def set_aside(self) -> tuple[str, ...]:
        """Recipes that were chosen and missed their floor on test, the one preferred most first."""
        return tuple(self.lost)[:-1]


def accept(
    measured: Sequence[Measured],
    ask: Callable[[str], Judged],
    protocol: Protocol,
    settings: CompressionSettings,
    baseline: str,
) -> Accepted:
    """The recipe that is preferred most of those that keep their floor on test; at last `baseline`.

    The order is that of the figures `measured` on valid. The test split never ranks: it lets the one whose
    turn it is pass, or sets it aside: a recipe passes that is not shown to lose too much. `ask` judges the
    recipe of a name.
    """
    judged = {baseline: ask(baseline)}
    if not _is_of_numbers(judged[baseline]):  # nothing can be held against them, and they stop the run
        broken = f"the scores of {baseline} on test, against which it would be held, are not numbers"
        measured = [m if m.recipe == baseline else replace(m, missed_on_test=broken) for m in measured]
    lost: dict[str, dict[str, Interval]] = {}
    while True:
        choice = choose(measured, settings, baseline)
        name = choice.chosen
        if name not in judged:
            judged[name] = ask(name)
        lost[name] = loss_on_test(judged[name], judged[baseline], protocol)
        fault = _fault(settings, name, lost[name])
        if name == baseline or fault is None:
            return Accepted(choice=choice, judged=judged, lost=lost)
        measured = [replace(m, missed_on_test=fault) if m.recipe == name else m for m in measured]


def loss_on_test(ours: Judged, uncompressed: Judged, protocol: Protocol) -> dict[str, Interval]:
    """`auc_loss`, a difference, and `ndcg_loss`, a share, with their intervals; NaN for broken scores."""
    if not (_is_of_numbers(ours) and _is_of_numbers(uncompressed)):
        return dict.fromkeys(FLOORS, NOT_A_NUMBER)
    figures = losses(ours.quality, uncompressed.quality)
    intervals = {
        "auc_loss": _auc_loss(ours, uncompressed, protocol),
        "ndcg_loss": _ndcg_loss(ours, uncompressed),
    }
    return {name: replace(interval, value=figures[name]) for name, interval in intervals.items()}


def floor_checks(settings: CompressionSettings, recipe: str, lost: dict[str, Interval]) -> list[Check]:
    """Whether `recipe` keeps the quality floor on test.

    The valid split chose the recipe under the floor; the test split is a second sample of some hundred users,
    on which the best of several recipes lands beyond the floor by chance alone now and then. So a check is
    missed only when the whole 95 % interval (paired, over users) lies beyond the floor, which chance alone
    brings about once in forty checks or so. A score that is not a number misses both.
    """
    words = {"auc_loss": "AUC", "ndcg_loss": f"share of {NDCG}"}
    return [
        loss_check(
            f"{words[name]} that {recipe} loses on test",
            interval,
            getattr(settings, FLOORS[name]),
            "a recipe beyond it by more than chance is set aside; where scores are not numbers, look for the "
            "first such loss of the training, or export the model again",
        )
        for name, interval in lost.items()
    ]


def baseline_checks(chosen: Judged, baselines: dict[str, float]) -> list[Check]:
    """Whether what is released is better than each of `baselines`: the figure itself decides, strictly."""
    ours, within = chosen.quality[NDCG], bootstrap_mean(chosen.ndcg)
    return [
        above(
            f"{NDCG} of {chosen.recipe} against {name}",
            ours,
            theirs,
            f"95 % interval {within.low:.4f} to {within.high:.4f}; what is released must be better than "
            f"{name}: tune training, or do not release it",
        )
        for name, theirs in baselines.items()
    ]


def _fault(settings: CompressionSettings, recipe: str, lost: dict[str, Interval]) -> str | None:
    """What sets `recipe` aside, in words; None when it keeps its floor."""
    for (name, loss), check in zip(lost.items(), floor_checks(settings, recipe, lost), strict=True):
        if not check.passed:
            return _loss_in_words(name, loss, getattr(settings, FLOORS[name]))
    return None


def _loss_in_words(name: str, loss: Interval, floor: float) -> str:
    if math.isnan(loss.value):
        return "on test its scores are not numbers"
    word, form = {"auc_loss": ("AUC", ".4f"), "ndcg_loss": ("NDCG@10", ".2%")}[name]
    value, low, high = (format(number, form) for number in (loss.value, loss.low, loss.high))
    return f"on test {word} falls by {value} (95 % interval {low} to {high}), floor {format(floor, form)}"


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
