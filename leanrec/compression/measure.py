"""The figures of candidates: bytes, resident memory, latency and quality, of the graphs as they are served.

All candidates answer the same request before the next one comes, so a noisy machine is noisy for all alike.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leanrec.compression.resident import resident_bytes
from leanrec.evaluation.protocol import HEADLINE_K, Protocol, RatedPairs, evaluate_lists, evaluate_scores
from leanrec.export.agreement import Differences, compare_ranker, compare_recommender
from leanrec.export.golden import Golden
from leanrec.export.graph_file import graph_path
from leanrec.export.runtime import GraphSession, Tensors, rows_of
from leanrec.files import size_in_bytes
from leanrec.schema import MODELS, RANKER, RECOMMENDER
from leanrec.triton.load import Load, in_turns, percentiles

NDCG = f"ndcg@{HEADLINE_K}"
PAIRS_AT_ONCE = 256
WARM_UP = 10
CALLERS, REQUESTS_OF_MANY = 8, 160
"""Threads that ask one session at once, and how much they ask of each candidate."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A recipe's graphs, loaded with one thread each."""

    recipe: str
    folder: Path
    recommender: GraphSession
    ranker: GraphSession

    @classmethod
    def load(cls, recipe: str, folder: Path) -> Candidate:
        """The candidate whose graphs lie in `folder`."""
        recommender, ranker = (GraphSession(graph_path(folder, model)) for model in MODELS)
        return cls(recipe=recipe, folder=folder, recommender=recommender, ranker=ranker)

    def graph(self, model: str) -> GraphSession:
        """Its `model`: recommender or ranker."""
        return self.recommender if model == RECOMMENDER else self.ranker

    def served_bytes(self) -> int:
        """The bytes of both graphs as they lie in the model repository."""
        return sum(size_in_bytes(self.folder / model) for model in MODELS)

    def resident_bytes(self) -> int | None:
        """What both graphs take in a process of their own; None where that cannot be measured."""
        return resident_bytes([graph_path(self.folder, model) for model in MODELS])

    def rate(self, pairs: RatedPairs) -> tuple[np.ndarray, np.ndarray]:
        """P(like) and the expected rating of each rated pair, both [P]."""
        scores = self.ranker.run_in_batches(pairs.inputs, PAIRS_AT_ONCE)
        return scores["like"][:, 0].astype(np.float64), scores["rating"][:, 0].astype(np.float64)

    def compare(self, golden: Golden) -> tuple[Differences, Differences]:
        """What separates recommender and ranker from what `golden` expects, golden requests one by one."""
        lists = self.recommender.run_in_batches(golden.inputs[RECOMMENDER], 1)
        scores = self.ranker.run_in_batches(golden.inputs[RANKER], 1)
        expected = golden.expected
        return compare_recommender(expected[RECOMMENDER], lists), compare_ranker(expected[RANKER], scores)


@dataclass(frozen=True, kw_only=True, eq=False)
class Answered:
    """What one candidate answered to B requests sent one at a time, and how long each took."""

    item_index: np.ndarray
    """[B, K]."""
    milliseconds: np.ndarray
    """[B]."""

    def latency_ms(self) -> dict[str, float]:
        """p50, p95 and p99 in milliseconds."""
        return percentiles(self.milliseconds)


def answer_side_by_side(candidates: list[Candidate], requests: Tensors) -> dict[str, Answered]:
    """Every candidate answers every request [B, ...] alone; each request goes to all, in changing order."""
    num_requests = len(next(iter(requests.values())))
    first = rows_of(requests, slice(0, 1))
    for candidate in candidates:
        candidate.recommender.warm_up(first, WARM_UP)
    lists: dict[str, list[np.ndarray]] = {candidate.recipe: [] for candidate in candidates}
    times: dict[str, list[float]] = {candidate.recipe: [] for candidate in candidates}
    for row in range(num_requests):
        request = rows_of(requests, slice(row, row + 1))
        for place in range(len(candidates)):
            candidate = candidates[(row + place) % len(candidates)]
            clock = time.perf_counter()
            answer = candidate.recommender.run(request)
            times[candidate.recipe].append((time.perf_counter() - clock) * 1e3)
            lists[candidate.recipe].append(answer["item_index"])
    return {
        recipe: Answered(item_index=np.concatenate(found), milliseconds=np.array(times[recipe]))
        for recipe, found in lists.items()
    }


def answer_to_many(candidates: list[Candidate], requests: Tensors) -> dict[str, Load]:
    """The same with `CALLERS` threads at once, in turns; each call still computes with one thread."""
    asks = {candidate.recipe: candidate.recommender.run for candidate in candidates}
    return in_turns(asks, requests, callers=CALLERS, num_requests=REQUESTS_OF_MANY, turns=2)


def latency_ratio(ours: Answered, baseline: Answered) -> float:
    """The median of ours over the baseline's time, request by request: drift hits both alike."""
    return float(np.median(ours.milliseconds / baseline.milliseconds))


def quality_of(
    item_index: np.ndarray, like: np.ndarray, rating: np.ndarray, protocol: Protocol
) -> dict[str, float]:
    """AUC, log loss, calibration error and NDCG@10 of lists [B, K] and of the rated pairs' scores [P].

    NaN throughout when a score is not a number.
    """
    if not (np.isfinite(like).all() and np.isfinite(rating).all()):
        return dict.fromkeys(("auc", "log_loss", "ece", NDCG), float("nan"))
    of_scores = evaluate_scores(like, rating, protocol)
    of_lists = evaluate_lists(item_index, protocol, (HEADLINE_K,))
    return {**{name: of_scores[name] for name in ("auc", "log_loss", "ece")}, NDCG: of_lists[NDCG]}


def losses(ours: Mapping[str, float], baseline: Mapping[str, float]) -> dict[str, float]:
    """`auc_loss`, a difference, and `ndcg_loss`, a share; below 0 is a gain."""
    ndcg = 1 - ours[NDCG] / baseline[NDCG] if baseline[NDCG] > 0 else baseline[NDCG] - ours[NDCG]
    return {"auc_loss": baseline["auc"] - ours["auc"], "ndcg_loss": ndcg}
