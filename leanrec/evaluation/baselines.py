"""What a recommender must beat: popularity, and nearest neighbours among items.

Both learn from the train split alone, as the model does, and both answer the protocol's requests
under the protocol's rules (seen items left out, the rest of the catalogue ranked). Item-KNN is
`implicit`'s CosineRecommender (Sarwar et al. 2001); its neighbourhood size, and whether any event
counts or a liked one only, are chosen on the valid split. One thread, so that results repeat.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse as sp
from implicit.nearest_neighbours import CosineRecommender
from implicit.utils import ParameterWarning

from leanrec.evaluation.lists import best_items, user_batches
from leanrec.evaluation.metrics import Ints
from leanrec.evaluation.protocol import Interactions, Protocol, ndcg_per_user

Signal = Literal["events", "liked"]
SIGNALS: tuple[Signal, ...] = ("events", "liked")
NEIGHBOURHOODS = (20, 50, 100, 200, 400)


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A baseline's lists for the protocol's requests, and what was chosen on the valid split."""

    item_index: Ints
    """[B, K], best first."""
    chosen: dict[str, str | int]
    valid_ndcg: float
    """NDCG@10 on the valid split, of the choice."""


def recommend_popular(protocol: Protocol, valid: Protocol, k: int) -> Baseline:
    """The items with the most train events (or the most liked ones: chosen on `valid`)."""
    trials = [(_valid_ndcg(_popular(valid, signal, k=10), valid), signal) for signal in SIGNALS]
    ndcg, signal = max(trials, key=lambda trial: trial[0])
    return Baseline(item_index=_popular(protocol, signal, k), chosen={"signal": signal}, valid_ndcg=ndcg)


def recommend_by_neighbours(protocol: Protocol, valid: Protocol, k: int) -> Baseline:
    """Items similar to those in the user's past; neighbourhood and signal are chosen on `valid`."""
    trials = [
        (_valid_ndcg(_neighbours(valid, signal, size, k=10), valid), signal, size)
        for signal in SIGNALS
        for size in NEIGHBOURHOODS
    ]
    ndcg, signal, size = max(trials, key=lambda trial: trial[0])
    return Baseline(
        item_index=_neighbours(protocol, signal, size, k),
        chosen={"signal": signal, "neighbours": size},
        valid_ndcg=ndcg,
    )


def _popular(protocol: Protocol, signal: Signal, k: int) -> Ints:
    counts = _matrix(protocol, signal, train_only=True).sum(axis=0).A1
    seen = protocol.requests["seen"].astype(np.int64)
    return np.concatenate(
        [
            best_items(np.tile(counts, (part.stop - part.start, 1)), seen[part], k)
            for part in user_batches(len(seen), protocol.num_items)
        ]
    )


def _neighbours(protocol: Protocol, signal: Signal, size: int, k: int) -> Ints:
    model = CosineRecommender(K=size + 1, num_threads=1)  # an item is its own nearest neighbour
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParameterWarning)  # it converts its own intermediate result
        model.fit(_matrix(protocol, signal, train_only=True), show_progress=False)
    past = _matrix(protocol, signal, train_only=False)[protocol.user]
    seen = protocol.requests["seen"].astype(np.int64)
    return np.concatenate(
        [
            best_items((past[part] @ model.similarity).toarray(), seen[part], k)
            for part in user_batches(len(seen), protocol.num_items)
        ]
    )


def _matrix(protocol: Protocol, signal: Signal, *, train_only: bool) -> sp.csr_matrix:
    """Users x items, 1 where there was an event (or a liked one) before the judged split."""
    past: Interactions = protocol.interactions
    mask = past.train.copy() if train_only else np.ones_like(past.train)
    if signal == "liked":
        mask &= past.liked
    num_users = 1 + max(int(past.user.max(initial=0)), int(protocol.user.max(initial=0)))
    ones = np.ones(int(mask.sum()))
    matrix = sp.csr_matrix(
        (ones, (past.user[mask], past.item_index[mask])), shape=(num_users, protocol.num_items)
    )
    matrix.data[:] = 1.0  # events of one user with one item count once
    return matrix


def _valid_ndcg(item_index: Ints, valid: Protocol) -> float:
    return float(ndcg_per_user(item_index, valid).mean())
