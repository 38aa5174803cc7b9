"""Who and what gets less than a fair share: popularity bias, exposure by item group, AUC by user group.

Sources: popularity lift, Abdollahpouri et al. 2020 (arXiv:1910.05755); exposure in proportion to merit,
discounted by place, Singh and Joachims 2018 (arXiv:1802.07281).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from leanrec.config import EvaluationSettings
from leanrec.errors import DataError
from leanrec.evaluation.bootstrap import Interval, bootstrap_auc
from leanrec.evaluation.comparison import loss_check
from leanrec.evaluation.metrics import Bools, Floats, Ints
from leanrec.evaluation.protocol import HEADLINE_K
from leanrec.gates import Check, at_least, at_most, unjudged
from leanrec.schema import UNKNOWN_INDEX


@dataclass(frozen=True, kw_only=True)
class GroupAuc:
    """AUC of one group of users; None where they are too few, or like all or nothing."""

    group: str
    num_users: int
    auc: Interval | None


def popularity_lift(
    item_index: Ints, taken_up: Sequence[Ints], popularity: Floats, k: int = HEADLINE_K
) -> float | None:
    """Mean popularity of what lists [B, K] show, over that of what the same users took up (B arrays).

    `popularity` [N]: events of each item. 1 is no bias, above 1 lists are more popular than people's taste.
    NaN when nothing was shown; None where nobody took anything up, so that there is no taste to compare with.
    """
    if not any(len(items) for items in taken_up):
        return None
    shown = np.asarray(item_index)[:, :k]
    lists = [popularity[row[row != UNKNOWN_INDEX]] for row in shown]
    means = [
        (float(a.mean()), float(popularity[b].mean()))
        for a, b in zip(lists, taken_up, strict=True)
        if a.size and len(b)
    ]
    base = sum(theirs for _, theirs in means)
    return sum(ours for ours, _ in means) / base if base > 0 else math.nan


def relative_exposure(
    item_index: Ints, relevant: Sequence[Ints], group: Bools, k: int = HEADLINE_K
) -> float | None:
    """Exposure per like of the items in `group` [N], over that of all other items; 1 is fair by merit.

    Exposure of a place is 1 / log2(place + 1). NaN when nothing outside the group is shown; None where the
    group, or the rest, has no like at all: then neither has a merit to be shown by.
    """
    shown = np.asarray(item_index)[:, :k]
    weight = np.broadcast_to(1 / np.log2(np.arange(shown.shape[1]) + 2.0), shown.shape)
    real = shown != UNKNOWN_INDEX
    wanted = np.concatenate([np.asarray(items, dtype=np.int64) for items in relevant])
    likes = int(group[wanted].sum())
    if likes in (0, wanted.size):
        return None
    inside = weight[real & group[shown]].sum() / likes
    outside = weight[real & ~group[shown]].sum() / (wanted.size - likes)
    return _ratio(inside, outside)


def auc_by_group(
    liked: Bools, like: Floats, group: Ints, user: Ints, names: Sequence[str], *, min_users: int
) -> list[GroupAuc]:
    """AUC of the pairs [P] of each group of users; `group` [P] numbers `names`, index 0 is unknown.

    Raises a DataError when a score is not a number.
    """
    if not np.isfinite(like).all():
        raise DataError("fairness: scores that are not numbers have no AUC; look at the release's parity")
    found = []
    for number, name in enumerate(names):
        rows = group == number
        users = int(np.unique(user[rows]).size)
        judged = users >= min_users and 0 < liked[rows].sum() < rows.sum()
        auc = bootstrap_auc(liked[rows], like[rows], user[rows]) if judged else None
        found.append(GroupAuc(group=name, num_users=users, auc=auc))
    return found


def decide_fairness(
    settings: EvaluationSettings,
    lift: float | None,
    tail_exposure: float | None,
    groups: dict[str, list[GroupAuc]],
) -> list[Check]:
    """The gate's checks; `groups` holds the AUCs of each attribute's groups. None passes as unjudged."""
    lifted, exposed = (
        "popularity lift of the lists",
        "exposure of tail items per like, over that of head items",
    )
    too_popular = "lists show what is popular, not what people like"
    too_rare = "items off the beaten track are hardly ever shown"
    remedy = "add candidates, or weigh popular items down"
    return [
        unjudged(lifted, f"<= {settings.max_popularity_lift:g}", "no user asked has a past")
        if lift is None
        else at_most(lifted, lift, settings.max_popularity_lift, f"{too_popular}: {remedy}"),
        unjudged(
            exposed, f">= {settings.min_tail_exposure:g}", "no like held out of the tail, or of the head"
        )
        if tail_exposure is None
        else at_least(exposed, tail_exposure, settings.min_tail_exposure, f"{too_rare}: {remedy}"),
        *(_gap_check(attribute, found, settings) for attribute, found in groups.items()),
    ]


def _gap_check(attribute: str, groups: Sequence[GroupAuc], settings: EvaluationSettings) -> Check:
    judged = [(each.group, each.auc) for each in groups if each.auc is not None]
    figure = f"AUC gap between the groups of {attribute}"
    if len(judged) < 2:
        return loss_check(figure, None, settings.max_auc_gap, "", num_users=sum(g.num_users for g in groups))
    # The surest gap of all pairs, not that of the extremes: those may be groups of which little is known.
    gap, detail = max(
        (_gap(better, worse) for better, worse in permutations(judged, 2)),
        key=lambda found: (found[0].low, found[0].value),
    )
    return loss_check(figure, gap, settings.max_auc_gap, detail)


def _gap(better: tuple[str, Interval], worse: tuple[str, Interval]) -> tuple[Interval, str]:
    """What separates two groups at least, as far as their intervals tell, and both in words."""
    (one, ours), (other, theirs) = better, worse
    gap = Interval(
        value=ours.value - theirs.value,
        low=max(0.0, ours.low - theirs.high),
        high=ours.high - theirs.low,
    )
    return gap, f"{one} {ours.value:.4f}, {other} {theirs.value:.4f}"


def _ratio(above: float, below: float) -> float:
    return float(above / below) if below > 0 else math.nan
