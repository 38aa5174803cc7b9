"""Make the inverted file of a trained model's items: lists of near items, and how many of them to look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leanrec.config.storage import RetrievalIndexSettings
from leanrec.errors import ExportError
from leanrec.models.inputs import UserInputs
from leanrec.models.recommender import MASKED, Recommender
from leanrec.models.retrieval.inverted_file import InvertedFile
from leanrec.schema import UNKNOWN_INDEX

DEPTH = 100
"""Recall is measured over so many of the exact best items."""
SPREADS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0)
"""Tried for `InvertedFile.look_by`; the one with which the fewest lists are enough is kept."""
SAMPLE, ROUNDS = 4096, 6
"""Items that a cut is found on, and rounds of 2-means over them."""


@dataclass(frozen=True, kw_only=True)
class IndexFigures:
    """What an index is like; `index.json` of a `graphs` folder, null where the search is exact."""

    num_lists: int
    list_length: int
    probes: int
    spread: float
    recall: float
    """Share of the exact best `DEPTH` items among those of the lists looked at."""


def index_items(
    model: Recommender, settings: RetrievalIndexSettings, requests: Mapping[str, np.ndarray]
) -> dict[str, Any] | None:
    """Give `model` an index if its catalogue is large enough; answers its figures, None where it is exact.

    As many lists are looked at as the users of `requests` need for `settings.min_recall`.
    """
    if model.spec.num_items < settings.min_items:
        return None
    names = [tensor.name for tensor in model.spec.user_inputs()]
    with torch.inference_mode():
        users = model.retriever.user_vectors(UserInputs(*(torch.from_numpy(requests[n]) for n in names)))
    index, recall = build_index(model.item_vectors, users, settings, model.num_candidates)
    model.index = index
    figures = IndexFigures(
        num_lists=index.num_lists,
        list_length=index.length,
        probes=index.probes,
        spread=index.spread,
        recall=recall,
    )
    return asdict(figures)


def index_as(model: Recommender, figures: dict[str, Any] | None) -> Recommender:
    """Give `model`, a changed form of another, an index as that has (`index.json`); answers the model."""
    if figures is not None and model.index is None:
        lists = lists_of(model.item_vectors.numpy(), figures["list_length"])
        probes, spread = figures["probes"], figures["spread"]
        model.index = InvertedFile(model.item_vectors, torch.from_numpy(lists), probes, MASKED, spread)
    return model


def build_index(
    item_vectors: Tensor, users: Tensor, settings: RetrievalIndexSettings, num_candidates: int
) -> tuple[InvertedFile, float]:
    """An inverted file over item_vectors [N, D] and the recall that it has for `users` [U, D].

    The lists looked at hold at least twice `num_candidates` items, for the user may have seen some of them.
    """
    lists = torch.from_numpy(lists_of(item_vectors.numpy(), settings.list_length))
    index = InvertedFile(item_vectors, lists, len(lists), MASKED)
    least = -(-2 * num_candidates // index.length)
    best = torch.cat([_list_of_best(index, item_vectors, part) for part in users.split(64)])
    tried: dict[float, tuple[int, float]] = {}
    for spread in SPREADS:
        index.look_by(spread)
        needed = torch.cat(
            [_ranks(index, *parts) for parts in zip(users.split(64), best.split(64), strict=True)]
        )
        reached = (needed.flatten().bincount(minlength=index.num_lists).cumsum(0) / needed.numel()).numpy()
        enough = int(np.searchsorted(reached, settings.min_recall - 1e-9)) + 1
        probes = min(max(least, enough), index.num_lists)
        tried[spread] = probes, float(reached[probes - 1])
    chosen = min(tried, key=lambda spread: (tried[spread][0], -tried[spread][1]))
    index.look_by(chosen)
    index.probes, recall = tried[chosen]
    return index, recall


def lists_of(vectors: np.ndarray, length: int, seed: int = 0) -> np.ndarray:
    """Items 1..N-1 of vectors [N, D] in lists of `length` near ones: [M, length], the last one padded with 0.

    Bisecting 2-means (Steinbach et al. 2000) whose cuts fall on multiples of `length` as near as may be to
    where 2-means would cut. So every list is full, and none of them is larger than another.
    """
    if len(vectors) < 2:
        raise ExportError("the catalogue is empty; an index needs items")
    random = np.random.default_rng(seed)
    finished, waiting = [], [np.arange(1, len(vectors))]
    while waiting:
        items = waiting.pop()
        if len(items) <= length:
            finished.append(items)
        else:
            waiting += _cut(items, vectors, length, random)
    finished.sort(key=len, reverse=True)
    lists = np.full((len(finished), length), UNKNOWN_INDEX, np.int64)
    for row, items in zip(lists, finished, strict=True):
        row[: len(items)] = items
    return lists


def _cut(
    items: np.ndarray, vectors: np.ndarray, length: int, random: np.random.Generator
) -> list[np.ndarray]:
    """`items` in two parts, the first of a size that `length` divides."""
    own = vectors[items]
    sample = own[random.choice(len(own), min(len(own), SAMPLE), replace=False)]
    first = sample[0]
    second = sample[np.square(sample - first).sum(axis=1).argmax()]
    for _ in range(ROUNDS):
        nearer = sample @ (first - second) > (first @ first - second @ second) / 2
        if nearer.all() or not nearer.any():
            break
        first, second = sample[nearer].mean(axis=0), sample[~nearer].mean(axis=0)
    margin = own @ (first - second) - (first @ first - second @ second) / 2
    most = (len(items) - 1) // length
    size = length * min(max(1, round(int((margin > 0).sum()) / length)), most)
    order = np.argpartition(-margin, size - 1)
    return [items[order[:size]], items[order[size:]]]


def _list_of_best(index: InvertedFile, item_vectors: Tensor, users: Tensor) -> Tensor:
    """The lists in which each user's exact best items lie: [U, DEPTH]."""
    exact = users @ item_vectors.T
    exact[:, UNKNOWN_INDEX] = MASKED
    return index.list_of_item[exact.topk(min(DEPTH, exact.shape[1] - 1), dim=1).indices]


def _ranks(index: InvertedFile, users: Tensor, lists: Tensor) -> Tensor:
    """The place of each of `lists` [U, DEPTH] among all lists, nearest to the user first."""
    order = index.nearness(users).argsort(dim=1, descending=True)
    place = torch.empty_like(order).scatter_(1, order, torch.arange(index.num_lists).expand_as(order))
    return place.gather(1, lists)
