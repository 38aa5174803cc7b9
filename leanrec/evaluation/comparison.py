"""Is one release as good as another? Both answer the same held-out window, and users are compared in pairs.

A loss is judged by its whole 95 % interval (paired bootstrap over users): on some hundred users the figure
itself moves by chance, so only a loss that lies beyond its bound with the whole interval counts as one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from leanrec.config import EvaluationSettings
from leanrec.errors import DataError
from leanrec.evaluation import metrics
from leanrec.evaluation.bootstrap import Interval, bootstrap_auc_difference, bootstrap_difference
from leanrec.evaluation.metrics import Floats, Ints
from leanrec.evaluation.protocol import HEADLINE_K, Protocol
from leanrec.evaluation.segments import Part, ndcg_in, parts_of
from leanrec.files import finite
from leanrec.gates import Check, unjudged

NDCG, AUC = f"ndcg@{HEADLINE_K}", "auc"
EVERYBODY = "all users"
NOT_A_NUMBER = Interval(value=math.nan, low=math.nan, high=math.nan)


@dataclass(frozen=True, kw_only=True, eq=False)
class Answered:
    """What one release answers to a protocol."""

    name: str
    item_index: Ints
    """[B, K], best first."""
    like: Floats
    """P(like) of each rated pair, [P]."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One figure of two releases over one part of the users or items."""

    part: str
    figure: str
    num_users: int
    ours: float | None
    """None where too few users are in the part; NaN where a score is not a number."""
    theirs: float | None
    loss: Interval | None
    """What ours lacks of theirs: a difference of AUC, a share of their NDCG@10; below 0 is a gain."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON value; what is not a number is null."""
        return {key: finite(value) for key, value in asdict(self).items()}


def compare(ours: Answered, theirs: Answered, protocol: Protocol, *, min_users: int) -> list[Comparison]:
    """NDCG@10 and AUC of both over everybody and each segment; a part of fewer users is left unjudged."""
    everybody = Part(
        name=EVERYBODY,
        requests=np.ones(len(protocol.relevant), dtype=bool),
        pairs=np.ones(protocol.pairs.liked.size, dtype=bool),
        items=np.ones(protocol.num_items, dtype=bool),
    )
    return [
        found
        for part in (everybody, *parts_of(protocol))
        for found in (
            _compare_ndcg(part, ours, theirs, protocol, min_users),
            _compare_auc(part, ours, theirs, protocol, min_users),
        )
    ]


def decide_comparison(
    comparisons: Sequence[Comparison], settings: EvaluationSettings, ours: str, theirs: str
) -> list[Check]:
    """The gate's checks: better than or equal to `theirs` over everybody, and no segment beyond its bound."""
    bounds = {
        (True, NDCG): settings.equal_within_ndcg,
        (True, AUC): settings.equal_within_auc,
        (False, NDCG): settings.max_segment_ndcg_loss,
        (False, AUC): settings.max_segment_auc_loss,
    }
    words = {NDCG: f"share of {NDCG}", AUC: "AUC"}
    return [
        loss_check(
            f"{words[c.figure]} that {ours} loses against {theirs}, {c.part}",
            c.loss,
            bounds[c.part == EVERYBODY, c.figure],
            f"{theirs} serves these users better: look at the segment's figures, or keep {theirs}",
            num_users=c.num_users,
        )
        for c in comparisons
    ]


def loss_check(figure: str, loss: Interval | None, bound: float, detail: str, *, num_users: int = 0) -> Check:
    """A check that is missed when the whole interval of `loss` lies beyond `bound`, and when it is NaN.

    None says that there are too few users to tell; that passes, and the line says so.
    """
    if loss is None:
        return unjudged(figure, f"<= {bound:g}", f"{num_users} users are not enough")
    value = loss.value if math.isfinite(loss.value) else str(loss.value)
    return Check(
        figure=figure,
        value=value,
        bound=f"<= {bound:g}, or within the 95 % interval",
        passed=loss.low <= bound,
        detail=f"95 % interval {loss.low:.4g} to {loss.high:.4g}; {detail}",
    )


def _compare_ndcg(
    part: Part, ours: Answered, theirs: Answered, protocol: Protocol, min_users: int
) -> Comparison:
    first, second = (ndcg_in(part, each.item_index, protocol) for each in (ours, theirs))
    if first.size < min_users:
        return _unjudged(part, NDCG, first.size)
    mean = float(second.mean())
    difference = bootstrap_difference(second, first)
    return Comparison(
        part=part.name,
        figure=NDCG,
        num_users=first.size,
        ours=float(first.mean()),
        theirs=mean,
        loss=_scaled(difference, 1 / mean if mean > 0 else 1.0),
    )


def _compare_auc(
    part: Part, ours: Answered, theirs: Answered, protocol: Protocol, min_users: int
) -> Comparison:
    pairs, rows = protocol.pairs, part.pairs
    users = np.unique(pairs.user[rows]).size
    liked = pairs.liked[rows]
    if users < min_users or not 0 < liked.sum() < liked.size:
        return _unjudged(part, AUC, users)
    first, second = ours.like[rows], theirs.like[rows]
    try:
        loss = bootstrap_auc_difference(liked, second, first, pairs.user[rows])
        values = metrics.auc(liked, first), metrics.auc(liked, second)
    except DataError:  # a score that is not a number: the gate must say so, and not stop
        loss, values = NOT_A_NUMBER, (math.nan, math.nan)
    return Comparison(
        part=part.name, figure=AUC, num_users=users, ours=values[0], theirs=values[1], loss=loss
    )


def _unjudged(part: Part, figure: str, num_users: int) -> Comparison:
    return Comparison(part=part.name, figure=figure, num_users=num_users, ours=None, theirs=None, loss=None)


def _scaled(interval: Interval, factor: float) -> Interval:
    return Interval(value=interval.value * factor, low=interval.low * factor, high=interval.high * factor)
