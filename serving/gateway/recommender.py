"""Answer for a user: the row, the release that is his, the model, filters, titles.

What fails falls back, in this order, and the answer says so:

    the store is gone          a row past its time (stale_row); without one, popular items
    the candidate fails        the stable release answers; it is asked beside one that is slow
    Triton does not serve the  the one about to be stable, or one that was stable lately; while releases
    stable release (yet)       change, Triton serves one of them
    no Triton answers in time  popular items of the stable release, filtered alike (popular_items)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import TYPE_CHECKING

import numpy as np

from leanrec.data.pseudonyms import pseudonym_of
from leanrec.errors import FeatureStoreError, ServingError
from leanrec.features.rows import UserRow, unknown_user
from leanrec.schema import RANKER, RECOMMENDER
from leanrec.triton.async_client import NotServedError
from leanrec.triton.client import Answer
from leanrec.triton.messages import encode_request
from serving.gateway import request_id
from serving.gateway.api import (
    Degraded,
    RankAnswer,
    RankedItem,
    RankRequest,
    Recommendation,
    RecommendationAnswer,
    RecommendationRequest,
    Timings,
)
from serving.gateway.failures import Failures
from serving.gateway.fallback import first_answer
from serving.gateway.faults import FaultError, shown
from serving.gateway.filters import Filter, Scored, diversify
from serving.gateway.metrics import PHASES, counted_route
from serving.gateway.releases import Release, Target
from serving.gateway.users import User

if TYPE_CHECKING:
    from serving.gateway.gateway import Gateway

RECOMMENDATIONS, RANK = "/v1/recommendations", "/v1/rank"
MAX_CANDIDATES = 500
"""Items of the categories asked for that the ranker looks at when the recommender's list holds too few."""
MAX_HIDDEN = 50_000
"""Items of a catalogue that are hidden one by one at most; more would keep other requests waiting."""
NOTHING_SEEN = np.zeros(0, np.int64)
STRANGER = User(row=None, read_at=0.0)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a release answers a user, and how it came about."""

    target: Target
    items: Scored
    degraded: Degraded | None


class Recommender:
    """Answers of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._metrics = gateway.metrics
        self._failures = Failures(gateway.metrics)

    async def recommend(self, request: RecommendationRequest) -> tuple[RecommendationAnswer, User]:
        """The answer, and the user as he was known. A FaultError when `k` or `release` cannot be had."""
        clock = time.perf_counter
        started = clock()
        pseudonym = pseudonym_of(request.user_id, self._gateway.pseudonym_key)
        targets = self._targets(pseudonym, request)
        user, degraded = await self._user(pseudonym)
        looked_up = clock()
        found = await self._found(request, user, targets, degraded)
        answered = clock()
        release = found.target.release
        items = _described(request, user.row, release, found.items)
        finished = clock()
        moments = pairwise((started, looked_up, answered, finished))
        for phase, (begun, ended) in zip(PHASES, moments, strict=True):
            self._metrics.phase_seconds[phase].observe(ended - begun)
        by_model = user.row is not None and found.degraded != "popular_items"
        answer = RecommendationAnswer(
            request_id=self._request_id(release, is_credited=by_model and request.release is None),
            release=release.version,
            stage=found.target.stage,
            known=user.row is not None,
            degraded=found.degraded,
            items=items,
            timings_ms=Timings(
                features=_ms(looked_up - started),
                model=_ms(answered - looked_up),
                total=_ms(finished - started),
            ),
        )
        return answer, user

    async def rank(self, request: RankRequest) -> RankAnswer:
        """Figures for the items asked about; a FaultError when the release does not know one of them."""
        pseudonym = pseudonym_of(request.user_id, self._gateway.pseudonym_key)
        targets = self._gateway.releases.targets(pseudonym)
        user, degraded = await self._user(pseudonym)
        row = user.row or unknown_user()

        async def ranked(target: Target, ends: float) -> dict[str, np.ndarray] | FaultError:
            try:
                candidates = _indices(target.release, request.item_ids)
            except FaultError as refusal:  # an answer, too: no other release is asked
                return refusal
            return await self._ranked(target, row, candidates, ends)

        # Whom the store cannot tell of is no stranger: the figures of one would be wrong.
        asked = [t for t in targets if not t.is_older or _knows(t, request.item_ids)]
        begun, ends = _now(), self.deadline()
        first, failed = await first_answer(asked if degraded != "popular_items" else (), ranked, ends)
        if first is not None:
            self._failures.note(RANK, failed)
            self._failures.follow_late(RANK, first, begun)
            if isinstance(first.answer, FaultError):
                raise first.answer
            figures = zip(*(first.answer[name].tolist() for name in ("score", "like", "rating")), strict=True)
            return self._rank_answer(first.target, request, user, degraded, list(figures))
        target = self._last_resort(targets)
        self._failures.note(RANK, failed, blamed=target)
        catalogue = target.release.catalogue
        likes = [catalogue.popularity(item) for item in _indices(target.release, request.item_ids)]
        return self._rank_answer(
            target, request, user, "popular_items", [(score, None, None) for score in likes]
        )

    def deadline(self) -> float:
        """The loop's time by which Triton must have answered all that one request asks from now on."""
        return _now() + self._gateway.settings.gateway.deadline_ms / 1e3

    async def from_model(
        self, target: Target, request: RecommendationRequest, user: User, ends: float
    ) -> Scored:
        """The items of `target` for a known user, best first; a ServingError when Triton does not answer by
        `ends`, the loop's time."""
        release = target.release
        excluded = _excluded(request, release)
        unwanted = _filter(request, user, excluded)
        answer = await self._ask(target, RECOMMENDER, _encoded(target, request, user, excluded), ends)
        items, scores = answer.outputs["item_index"][0], answer.outputs["score"][0]
        if not np.isfinite(scores).all():
            raise ServingError(f"release {release.version}: it answers scores that are not finite")
        passing = unwanted.scored(items, scores, release.catalogue, _pool(request, release))
        if len(passing) < request.k and request.categories:
            passing = await self._more(target, request, user, unwanted, passing, ends)
        return diversify(passing, request.k, request.diversity, release.catalogue.vectors)

    async def _user(self, pseudonym: str) -> tuple[User, Degraded | None]:
        try:
            user, is_stale = await self._gateway.users.get(pseudonym)
        except FeatureStoreError:
            return STRANGER, "popular_items"
        return user, "stale_row" if is_stale else None

    def _targets(self, pseudonym: str, request: RecommendationRequest) -> list[Target]:
        releases = self._gateway.releases
        pinned = request.release
        targets = releases.targets(pseudonym) if pinned is None else releases.pinned(pinned)
        most = targets[0].release.spec.top_k
        if request.k > most:
            raise FaultError(422, f"field 'k' is {request.k}; this release answers 1 to {most} items")
        return targets

    async def _found(
        self, request: RecommendationRequest, user: User, targets: list[Target], degraded: Degraded | None
    ) -> Found:
        if user.row is not None:
            route = counted_route(RECOMMENDATIONS, pinned=request.release is not None)
            begun, ends = _now(), self.deadline()
            first, failed = await first_answer(
                targets, lambda target, ends: self.from_model(target, request, user, ends), ends
            )
            if first is not None:
                self._failures.note(route, failed)
                self._failures.follow_late(route, first, begun)
                if first.answer and request.release is None:
                    version = str(first.target.release.version)
                    self._metrics.score.labels(version).observe(first.answer[0][1])
                return Found(target=first.target, items=first.answer, degraded=degraded)
            self._failures.note(route, failed, blamed=self._last_resort(targets))
            degraded = "popular_items"
        target = self._last_resort(targets) if degraded else targets[0]
        return Found(target=target, items=_popular(target.release, request, user), degraded=degraded)

    def _request_id(self, release: Release, *, is_credited: bool) -> str:
        return request_id.make(release.version, self._gateway.request_id_key, is_credited=is_credited)

    def _last_resort(self, targets: Sequence[Target]) -> Target:
        """The release whose popular items are shown where no model answers: the stable or the pinned one."""
        stable = self._gateway.releases.stable
        return next((target for target in targets if target.release is stable), targets[-1])

    async def _more(
        self,
        target: Target,
        request: RecommendationRequest,
        user: User,
        unwanted: Filter,
        passing: Scored,
        ends: float,
    ) -> Scored:
        """`passing` and the ranker's answer for the most liked items of the categories, best first."""
        catalogue = target.release.catalogue
        there = {item for item, _ in passing}
        more = (item for item in unwanted.passing(catalogue.by_popularity, catalogue) if item not in there)
        candidates = list(islice(more, MAX_CANDIDATES))
        if not candidates:
            return passing
        try:
            outputs = await self._ranked(target, user.row or unknown_user(), candidates, ends)
        except NotServedError:
            if target.release.spec.num_items > MAX_HIDDEN:
                raise
            return await self._more_without_ranker(target, request, user, unwanted, ends)
        scored = [*passing, *zip(candidates, outputs["score"].tolist(), strict=True)]
        return sorted(scored, key=lambda pair: -pair[1])

    async def _more_without_ranker(
        self, target: Target, request: RecommendationRequest, user: User, unwanted: Filter, ends: float
    ) -> Scored:
        """What the recommender answers where every item of other categories is hidden from it.

        While releases change, Triton may serve the recommender of one and the ranker of the other. It takes a
        long request, so it is not the way at other times.
        """
        catalogue = target.release.catalogue
        wanted = set(unwanted.passing(catalogue.by_popularity, catalogue))
        hidden = frozenset(range(1, target.release.spec.num_items)) - wanted
        answer = await self._ask(target, RECOMMENDER, _encoded(target, request, user, hidden), ends)
        return unwanted.scored(answer.outputs["item_index"][0], answer.outputs["score"][0], catalogue)

    async def _ranked(
        self, target: Target, row: UserRow, candidates: Sequence[int], ends: float
    ) -> dict[str, np.ndarray]:
        """score, like and rating, [C] each, of item indices."""
        tensors = row.tensors(target.release.spec)
        del tensors["seen"]
        tensors["candidates"] = np.array([candidates], np.int64)
        encoded = encode_request(target.models[RANKER], target.release.version, tensors)
        answer = await self._ask(target, RANKER, encoded, ends)
        outputs = {name: tensor[0] for name, tensor in answer.outputs.items()}
        if not all(np.isfinite(tensor).all() for tensor in outputs.values()):
            raise ServingError(f"release {target.release.version}: it answers scores that are not finite")
        return outputs

    async def _ask(self, target: Target, model: str, encoded: bytes, ends: float) -> Answer:
        served = (target.models[model], target.release.version)
        answer = await self._gateway.triton.infer(encoded, served, ends)
        if answer.version != target.release.version:
            raise ServingError(
                f"{target.models[model]}: version {answer.version} answered,"
                f" {target.release.version} was asked"
            )
        return answer

    def _rank_answer(
        self,
        target: Target,
        request: RankRequest,
        user: User,
        degraded: Degraded | None,
        figures: Sequence[tuple[float, float | None, float | None]],
    ) -> RankAnswer:
        return RankAnswer(
            request_id=self._request_id(target.release, is_credited=degraded != "popular_items"),
            release=target.release.version,
            stage=target.stage,
            known=user.row is not None,
            degraded=degraded,
            items=[
                RankedItem(item_id=item_id, score=score, like=like, rating=rating)
                for item_id, (score, like, rating) in zip(request.item_ids, figures, strict=True)
            ],
        )


def _now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


def liked_items(row: UserRow, threshold: float) -> list[int]:
    """Item indices that the user liked, newest first."""
    return row.history[row.history_ratings >= threshold][::-1].tolist()


def _encoded(target: Target, request: RecommendationRequest, user: User, excluded: frozenset[int]) -> bytes:
    """The request for the recommender; for a user as he is, it is encoded once."""
    assert user.row is not None
    model, release = target.models[RECOMMENDER], target.release
    plain = request.exclude_seen and not excluded
    if plain and (model, release.version) in user.requests:
        return user.requests[model, release.version]
    seen = user.row.seen if request.exclude_seen else NOTHING_SEEN
    if excluded:
        seen = np.concatenate([seen, np.array(sorted(excluded), np.int64)])
    encoded = encode_request(model, release.version, replace(user.row, seen=seen).tensors(release.spec))
    if plain:
        user.requests[model, release.version] = encoded
    return encoded


def _excluded(request: RecommendationRequest, release: Release) -> frozenset[int]:
    index_of = release.catalogue.index_of
    return frozenset(index_of[item] for item in request.exclude_items if item in index_of)


def _filter(request: RecommendationRequest, user: User, excluded: frozenset[int]) -> Filter:
    return Filter(
        seen=user.seen if request.exclude_seen else frozenset(),
        excluded=excluded,
        categories=frozenset(request.categories),
    )


def _popular(release: Release, request: RecommendationRequest, user: User) -> Scored:
    catalogue = release.catalogue
    unwanted = _filter(request, user, _excluded(request, release))
    scored = unwanted.popular(_pool(request, release), catalogue)
    return diversify(scored, request.k, request.diversity, catalogue.vectors)


def _pool(request: RecommendationRequest, release: Release) -> int:
    """How many of the best items the answer is chosen from: by diversity, all that a release gives."""
    return release.spec.top_k if request.diversity else request.k


def _knows(target: Target, item_ids: Sequence[str]) -> bool:
    return all(item_id in target.release.catalogue.index_of for item_id in item_ids)


def _indices(release: Release, item_ids: Sequence[str]) -> list[int]:
    index_of = release.catalogue.index_of
    for item_id in item_ids:
        if item_id not in index_of:
            raise FaultError(
                422, f"field 'item_ids': release {release.version} does not know item {shown(item_id)}"
            )
    return [index_of[item_id] for item_id in item_ids]


def _described(
    request: RecommendationRequest, row: UserRow | None, release: Release, items: Scored
) -> list[Recommendation]:
    catalogue = release.catalogue
    liked = liked_items(row, release.spec.liked_threshold) if request.explain and row else []
    return [
        Recommendation(
            rank=rank,
            item_id=catalogue.item_ids[item],
            title=catalogue.titles[item],
            categories=catalogue.categories[item],
            score=score,
            because=catalogue.explain(item, liked) if liked else [],
        )
        for rank, (item, score) in enumerate(items, 1)
    ]


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
