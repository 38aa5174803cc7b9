"""The protocol: what is asked of every model and baseline, and how the answers are judged.

Lists (full ranking, no sampled candidates; Krichene and Rendle 2020 say why): one request for each
user with a liked event held out, made of the user row as it was just before the user's first event
held out. Every item that the user has not met in an earlier split is a candidate; relevant are the
liked ones among the events held out.

Scores: every event held out, with the user row as it was just before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from leanrec.errors import ConfigError, DataError
from leanrec.evaluation import metrics
from leanrec.evaluation.metrics import Floats, Ints
from leanrec.evaluation.rows import Tensors, read_user_rows, stack_lists
from leanrec.files import read_json
from leanrec.schema import UNKNOWN_INDEX, ModelSpec

Split = Literal["valid", "test"]
EARLIER: dict[str, tuple[str, ...]] = {"valid": ("train",), "test": ("train", "valid")}
"""The splits that a user has met before the split that is judged."""

HEADLINE_K = 10
"""The cut-off of the figure that gates and baselines are compared on."""

MAX_USERS = 100_000
MAX_PAIRS = 500_000
"""Beyond so many, a fixed sample is judged: the figures then vary in the third digit only."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RatedPairs:
    """The events held out: P pairs of a user row and an item."""

    inputs: Tensors
    """The ranker's inputs: the user row [P, ...] and `candidates` [P, 1]."""
    user: Ints
    """Whose each pair is, [P]: a number within this protocol."""
    liked: metrics.Bools
    """[P]."""
    rating: Floats
    """[P]."""

    @property
    def item_index(self) -> Ints:
        """[P]."""
        return np.asarray(self.inputs["candidates"][:, 0], dtype=np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Interactions:
    """Events of the earlier splits as (user number, item index) pairs, each [E]."""

    user: Ints
    item_index: Ints
    liked: metrics.Bools
    train: metrics.Bools
    """Of the train split; else of a later split that is still before the judged one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Protocol:
    """B requests with what is relevant to each, and P rated pairs."""

    split: str
    num_items: int
    """Items, the unknown index 0 counted."""
    requests: Tensors
    """The recommender's inputs, named as served: the user row [B, ...] and `seen` [B, L]."""
    relevant: list[Ints]
    """B arrays of item indices."""
    user: Ints
    """The number of each request's user, [B]; pairs and interactions use the same numbers."""
    pairs: RatedPairs
    interactions: Interactions

    @property
    def num_relevant(self) -> Ints:
        """Relevant items of each request, [B]."""
        return np.array([len(items) for items in self.relevant])


def load_protocol(
    features: Path,
    training_set: Path,
    split: Split = "test",
    *,
    max_users: int = MAX_USERS,
    max_pairs: int = MAX_PAIRS,
) -> Protocol:
    """The protocol over `split` of a `training_set` and its `features` folder.

    Raises a DataError when nothing is held out in `split`, or none of it is liked and new to its user.
    """
    # Data does not fix how long a list is; nothing here depends on it.
    spec = ModelSpec(**{"top_k": HEADLINE_K, **read_json(Path(features) / "spec.json")})
    num_items = spec.num_items
    events = _read_events(Path(training_set))
    held = _held_out(events, split)
    seen = _pairs_of(events, np.isin(events["split"], EARLIER[split]), num_items)
    wanted = events["liked"] & held & (events["item_index"] != UNKNOWN_INDEX)
    relevant = np.setdiff1d(_pairs_of(events, wanted, num_items), seen, assume_unique=True)
    if relevant.size == 0:
        raise DataError(
            f"{training_set}: no user likes a new item in the split {split!r}, so no list can be judged; "
            "raise features.test_fraction and valid_fraction, or lower features.liked_threshold"
        )
    users = _sample(np.unique(relevant // num_items), max_users)
    pair_rows = _sample(np.flatnonzero(held), max_pairs)
    if events["liked"][pair_rows].all():
        raise DataError(
            f"{training_set}: all {pair_rows.size} events held out in the split {split!r} are liked, so "
            f"P(like) cannot be judged; raise features.{split}_fraction, or features.liked_threshold"
        )
    first_rows = _first_row_of(events, held, users)
    rows = read_user_rows(Path(training_set), np.union1d(pair_rows, first_rows), spec)
    return Protocol(
        split=split,
        num_items=num_items,
        requests={**rows.take(first_rows), "seen": stack_lists(_items_of(users, seen, num_items))},
        relevant=_items_of(users, relevant, num_items),
        user=users,
        pairs=RatedPairs(
            inputs={**rows.take(pair_rows), "candidates": events["item_index"][pair_rows, None]},
            user=events["user"][pair_rows],
            liked=events["liked"][pair_rows],
            rating=events["rating"][pair_rows].astype(np.float64),
        ),
        interactions=_interactions(events, split),
    )


def evaluate_lists(item_index: Ints, protocol: Protocol, ks: Sequence[int]) -> dict[str, float]:
    """The figures of lists [B, K] (best first, 0 for an empty place) at each cut-off in `ks`.

    NDCG@10 is always among them. Raises a ConfigError when a cut-off is longer than the lists
    although the catalogue is not.
    """
    length = np.asarray(item_index).shape[1]
    if max(ks) > length and length < protocol.num_items - 1:
        raise ConfigError(
            f"evaluation.ks holds {max(ks)}, but a list has {length} items; raise training.top_k or lower it"
        )
    relevance = metrics.relevance_of(item_index, protocol.relevant, protocol.num_items)
    counts = protocol.num_relevant
    figures: dict[str, float] = {}
    for k in sorted({*ks, HEADLINE_K}):
        figures[f"recall@{k}"] = float(metrics.recall_at(relevance, counts, k).mean())
        figures[f"ndcg@{k}"] = float(metrics.ndcg_at(relevance, counts, k).mean())
        figures[f"hit_rate@{k}"] = float(metrics.hit_rate_at(relevance, counts, k).mean())
        figures[f"mrr@{k}"] = float(metrics.mrr_at(relevance, counts, k).mean())
        figures[f"coverage@{k}"] = metrics.coverage_at(item_index, k, protocol.num_items)
    return figures


def ndcg_per_user(item_index: Ints, protocol: Protocol, k: int = HEADLINE_K) -> Floats:
    """NDCG@k of each request, [B]: what a paired bootstrap compares."""
    relevance = metrics.relevance_of(item_index, protocol.relevant, protocol.num_items)
    return metrics.ndcg_at(relevance, protocol.num_relevant, k)


def evaluate_scores(like: Floats, rating: Floats, protocol: Protocol) -> dict[str, float]:
    """AUC, log loss and calibration error of P(like), and the RMSE of the rating, over the P pairs."""
    pairs = protocol.pairs
    return {
        "auc": metrics.auc(pairs.liked, like),
        "log_loss": metrics.log_loss(pairs.liked, like),
        "rmse": metrics.rmse(pairs.rating, rating),
        "ece": metrics.expected_calibration_error(pairs.liked, like),
    }


def _read_events(path: Path) -> dict[str, np.ndarray]:
    """The narrow columns of the training set; `user` numbers the user ids in sorted order."""
    columns = ["event_id", "user_id", "item_index", "event_timestamp", "rating", "liked", "split"]
    try:
        table = pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: not a training set ({reason}); run build_training_set again") from None
    users = table["user_id"].combine_chunks().dictionary_encode()
    events = {name: table[name].to_numpy(zero_copy_only=False) for name in columns if name != "user_id"}
    number = np.argsort(np.argsort(users.dictionary.to_numpy(zero_copy_only=False).astype(str)))
    events["user"] = number[users.indices.to_numpy()]
    events["liked"] = events["liked"].astype(bool)
    events["item_index"] = events["item_index"].astype(np.int64)
    return events


def _held_out(events: dict[str, np.ndarray], split: str) -> np.ndarray:
    if split not in EARLIER:
        raise DataError(f"split {split!r}: a protocol judges one of {', '.join(EARLIER)}")
    held = events["split"] == split
    if not held.any():
        raise DataError(f"training set: the split {split!r} holds no event; raise features.{split}_fraction")
    return np.asarray(held)


def _pairs_of(events: dict[str, np.ndarray], mask: np.ndarray, num_items: int) -> Ints:
    """Distinct (user, item) of the masked events as sorted numbers user * num_items + item."""
    return np.unique(events["user"][mask] * num_items + events["item_index"][mask])


def _items_of(users: Ints, pairs: Ints, num_items: int) -> list[Ints]:
    """The items of each user in `users` among sorted `pairs`."""
    starts = np.searchsorted(pairs, users * num_items)
    ends = np.searchsorted(pairs, (users + 1) * num_items)
    return [pairs[a:b] % num_items for a, b in zip(starts, ends, strict=True)]


def _first_row_of(events: dict[str, np.ndarray], held: np.ndarray, users: Ints) -> Ints:
    """The row of each user's first event held out; the event id decides between equal times."""
    rows = np.flatnonzero(held)
    order = np.lexsort(
        (
            events["event_id"][rows].astype(str),
            events["event_timestamp"][rows],
            events["user"][rows],
        )
    )
    rows = rows[order]
    found, first = np.unique(events["user"][rows], return_index=True)
    return np.asarray(rows[first[np.searchsorted(found, users)]])


def _interactions(events: dict[str, np.ndarray], split: str) -> Interactions:
    mask = np.isin(events["split"], EARLIER[split]) & (events["item_index"] != UNKNOWN_INDEX)
    return Interactions(
        user=events["user"][mask],
        item_index=events["item_index"][mask],
        liked=events["liked"][mask],
        train=events["split"][mask] == "train",
    )


def _sample(values: Ints, size: int) -> Ints:
    """At most `size` of `values`, the same ones each time, in their order."""
    if values.size <= size:
        return values
    return np.sort(np.random.default_rng(0).choice(values, size=size, replace=False))
