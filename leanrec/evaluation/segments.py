"""The figures where averages hide something: users with a short past, items off the beaten track."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leanrec.evaluation import metrics
from leanrec.evaluation.metrics import Bools, Floats, Ints
from leanrec.evaluation.protocol import HEADLINE_K, Protocol
from leanrec.schema import UNKNOWN_INDEX

HEAD_SHARE = 0.2
"""The share of the items, the most popular, that is called the head."""
COLD_SHARE = 0.25
"""The share of users, or of items, with the fewest events that is called cold."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """The figures of a part; None where it is empty, and AUC also where it holds labels of one kind only."""

    name: str
    num_requests: int
    num_pairs: int
    ndcg: float | None
    auc: float | None
    log_loss: float | None
    ece: float | None
    """Expected calibration error of P(like)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Which requests, pairs and items of a protocol belong to a segment."""

    name: str
    requests: Bools
    """[B]."""
    pairs: Bools
    """[P]."""
    items: Bools
    """[N]: those that count as relevant."""


def parts_of(protocol: Protocol) -> list[Part]:
    """Cold users (the quartile with the fewest events) and the others; head, tail and cold items.

    Of items, the tail is all but the head, and the cold ones are the quartile with the fewest train events.
    """
    cold_request, cold_pair = _cold(protocol)
    head, cold = head_items(protocol), cold_items(protocol)
    everything = np.ones(protocol.num_items, dtype=bool)
    all_requests = np.ones(len(protocol.relevant), dtype=bool)
    asked = protocol.pairs.item_index
    of_users = [("cold users", cold_request, cold_pair), ("other users", ~cold_request, ~cold_pair)]
    of_items = [("head items", head), ("tail items", ~head), ("cold items", cold)]
    return [
        *(Part(name=name, requests=r, pairs=p, items=everything) for name, r, p in of_users),
        *(Part(name=name, requests=all_requests, pairs=i[asked], items=i) for name, i in of_items),
    ]


def evaluate_segments(item_index: Ints, like: Floats, protocol: Protocol) -> list[Segment]:
    """The figures of every part; `item_index` [B, K] and `like` [P] answer the protocol.

    For items, NDCG@10 counts only the relevant items of that part, over the users who have one.
    """
    return [_segment(part, item_index, like, protocol) for part in parts_of(protocol)]


def ndcg_in(part: Part, item_index: Ints, protocol: Protocol) -> Floats:
    """NDCG@10 of the part's users who have a relevant item in it, in their order; empty when none has."""
    relevant = [wanted[part.items[wanted]] for wanted in protocol.relevant]
    counts = np.array([len(wanted) for wanted in relevant])
    chosen = np.flatnonzero(part.requests & (counts > 0))
    if not chosen.size:
        return np.empty(0)
    relevance = metrics.relevance_of(
        item_index[chosen], [relevant[row] for row in chosen], protocol.num_items
    )
    return metrics.ndcg_at(relevance, counts[chosen], HEADLINE_K)


def head_items(protocol: Protocol) -> Bools:
    """Which items are the most popular fifth by train events, [N]."""
    counts = train_events(protocol)
    order = np.argsort(-counts[1:], kind="stable") + 1
    head = np.zeros(protocol.num_items, dtype=bool)
    head[order[: max(1, round(HEAD_SHARE * (protocol.num_items - 1)))]] = True
    return head


def cold_items(protocol: Protocol) -> Bools:
    """Which items are in the quartile with the fewest train events, [N]; the unknown item is not."""
    counts = train_events(protocol)
    cold = counts <= np.quantile(counts[1:], COLD_SHARE)
    cold[UNKNOWN_INDEX] = False
    return np.asarray(cold)


def train_events(protocol: Protocol) -> Ints:
    """How many train events each item has, [N]."""
    past = protocol.interactions
    return np.bincount(past.item_index[past.train], minlength=protocol.num_items)


def _cold(protocol: Protocol) -> tuple[Bools, Bools]:
    """Requests and pairs of users in the quartile with the fewest earlier events."""
    num_users = 1 + int(max(protocol.user.max(), protocol.pairs.user.max()))
    events = np.bincount(protocol.interactions.user, minlength=num_users)
    bound = np.quantile(events[protocol.user], COLD_SHARE)
    return events[protocol.user] <= bound, events[protocol.pairs.user] <= bound


def _segment(part: Part, item_index: Ints, like: Floats, protocol: Protocol) -> Segment:
    ndcg = ndcg_in(part, item_index, protocol)
    liked = protocol.pairs.liked[part.pairs]
    score = np.asarray(like)[part.pairs]
    both = 0 < liked.sum() < liked.size
    return Segment(
        name=part.name,
        num_requests=int(ndcg.size),
        num_pairs=int(liked.size),
        ndcg=float(ndcg.mean()) if ndcg.size else None,
        auc=metrics.auc(liked, score) if both else None,
        log_loss=metrics.log_loss(liked, score) if liked.size else None,
        ece=metrics.expected_calibration_error(liked, score) if liked.size else None,
    )
