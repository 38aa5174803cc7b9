"""The figures where averages hide something: users with a short past, items off the beaten track."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leanrec.evaluation import metrics
from leanrec.evaluation.metrics import Bools, Floats, Ints
from leanrec.evaluation.protocol import HEADLINE_K, Protocol

HEAD_SHARE = 0.2
"""The share of the items, the most popular, that is called the head."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """NDCG@10 and AUC of a part; None where the part is empty or holds labels of one kind only."""

    name: str
    num_requests: int
    num_pairs: int
    ndcg: float | None
    auc: float | None


def evaluate_segments(item_index: Ints, like: Floats, protocol: Protocol) -> list[Segment]:
    """Cold users (the quartile with the fewest events) and the others; head and tail items.

    `item_index` [B, K] and `like` [P] answer the protocol. For items, NDCG@10 counts only the
    relevant items of that part, over the users who have one.
    """
    cold_request, cold_pair = _cold(protocol)
    head = head_items(protocol)
    everything = np.ones(protocol.num_items, dtype=bool)
    all_requests = np.ones(len(protocol.relevant), dtype=bool)
    parts = [
        ("cold users", cold_request, cold_pair, everything),
        ("other users", ~cold_request, ~cold_pair, everything),
        ("head items", all_requests, head[protocol.pairs.item_index], head),
        ("tail items", all_requests, ~head[protocol.pairs.item_index], ~head),
    ]
    return [
        _segment(name, item_index, like, protocol, requests, pairs, items)
        for name, requests, pairs, items in parts
    ]


def head_items(protocol: Protocol) -> Bools:
    """Which items are the most popular fifth by train events, [N]."""
    past = protocol.interactions
    counts = np.bincount(past.item_index[past.train], minlength=protocol.num_items)
    order = np.argsort(-counts[1:], kind="stable") + 1
    head = np.zeros(protocol.num_items, dtype=bool)
    head[order[: max(1, round(HEAD_SHARE * (protocol.num_items - 1)))]] = True
    return head


def _cold(protocol: Protocol) -> tuple[Bools, Bools]:
    """Requests and pairs of users in the quartile with the fewest earlier events."""
    num_users = 1 + int(max(protocol.user.max(), protocol.pairs.user.max()))
    events = np.bincount(protocol.interactions.user, minlength=num_users)
    bound = np.quantile(events[protocol.user], 0.25)
    return events[protocol.user] <= bound, events[protocol.pairs.user] <= bound


def _segment(
    name: str,
    item_index: Ints,
    like: Floats,
    protocol: Protocol,
    requests: Bools,
    pairs: Bools,
    items: Bools,
) -> Segment:
    relevant = [wanted[items[wanted]] for wanted in protocol.relevant]
    counts = np.array([len(wanted) for wanted in relevant])
    chosen = np.flatnonzero(requests & (counts > 0))
    ndcg = None
    if chosen.size:
        relevance = metrics.relevance_of(
            item_index[chosen], [relevant[row] for row in chosen], protocol.num_items
        )
        ndcg = float(metrics.ndcg_at(relevance, counts[chosen], HEADLINE_K).mean())
    liked = protocol.pairs.liked[pairs]
    both = 0 < liked.sum() < liked.size
    return Segment(
        name=name,
        num_requests=int(chosen.size),
        num_pairs=int(liked.size),
        ndcg=ndcg,
        auc=metrics.auc(liked, np.asarray(like)[pairs]) if both else None,
    )
