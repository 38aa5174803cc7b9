"""The paths of the gateway; what they answer is in `api`, how it comes about in `recommender`."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from leanrec.data.pseudonyms import pseudonym_of
from leanrec.errors import FeatureStoreError
from leanrec.schema import UNKNOWN_INDEX
from serving.gateway.api import (
    MAX_ID_LENGTH,
    NO_CONTROL_CHARACTERS,
    Item,
    ItemsAnswer,
    PastItem,
    RankAnswer,
    RankRequest,
    Readiness,
    RecommendationAnswer,
    RecommendationRequest,
    ReleasesAnswer,
    SimilarAnswer,
    SimilarItem,
    UserAnswer,
)
from serving.gateway.faults import ERRORS, FAILURE, FaultError, shown
from serving.gateway.gateway import Gateway
from serving.gateway.guard import FACTS, Facts
from serving.gateway.json_route import JsonRoute
from serving.gateway.releases import Release

PathId = Annotated[str, Path(min_length=1, max_length=MAX_ID_LENGTH, pattern=NO_CONTROL_CHARACTERS)]
"""An id in a path, there by the converter `path`: servers turn %2F into a slash before anybody sees it."""
QueryId = Annotated[str, Query(min_length=1, max_length=MAX_ID_LENGTH, pattern=NO_CONTROL_CHARACTERS)]
"""Any id: in a path, browsers and proxies take "." and ".." for steps, however they are escaped."""
Nearest = Annotated[int | None, Query(ge=1, le=1000, description="10, or all there are, where none is sent")]
NEAREST = 10


def model_routes(gateway: Gateway) -> APIRouter:
    """What a model answers."""
    router = APIRouter(prefix="/v1", responses=ERRORS, tags=["recommend"], route_class=JsonRoute)

    @router.post("/recommendations", response_model=RecommendationAnswer)
    async def recommend(body: RecommendationRequest, request: Request) -> Response:
        """Recommend items to a user."""
        answer, user = await gateway.recommender.recommend(body)
        gateway.shadow.offer(body, answer, user)
        request.scope[FACTS].pinned = body.release is not None
        return _answered(request, answer)

    @router.post("/rank", response_model=RankAnswer)
    async def rank(body: RankRequest, request: Request) -> Response:
        """Put figures on items for a user, in the order asked."""
        return _answered(request, await gateway.recommender.rank(body))

    return router


def catalogue_routes(gateway: Gateway) -> APIRouter:
    """What is known without a model."""
    router = APIRouter(prefix="/v1", responses=ERRORS, tags=["look up"])

    @router.get("/items/similar", response_model=SimilarAnswer)
    async def similar_to(item_id: QueryId, request: Request, k: Nearest = None) -> Response:
        """Items near an item, whatever its id."""
        return await similar(item_id, request, k)

    @router.get("/items/{item_id:path}/similar", response_model=SimilarAnswer)
    async def similar(item_id: PathId, request: Request, k: Nearest = None) -> Response:
        """Items near an item."""
        release = gateway.releases.stable
        item = release.catalogue.index_of.get(item_id)
        if item is None:
            raise FaultError(404, f"release {release.version} does not know item {shown(item_id)}")
        most = len(release.catalogue.item_ids) - 2  # without the item itself, and index 0, which is none
        if k is not None and k > most:
            raise FaultError(422, f"field 'k' is {k}; this release answers 1 to {most} items")
        nearest = await asyncio.to_thread(release.catalogue.similar, item, k or min(NEAREST, most))
        items = [
            SimilarItem(rank=rank, score=score, **_facts_of(release, other))
            for rank, (other, score) in enumerate(nearest, 1)
        ]
        return _looked_up(request, release, SimilarAnswer(release=release.version, items=items))

    @router.get("/items", response_model=ItemsAnswer)
    async def items(
        request: Request,
        q: Annotated[str, Query(max_length=MAX_ID_LENGTH)] = "",
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> Response:
        """Search titles; without words, the most liked items."""
        release = gateway.releases.stable
        found = await asyncio.to_thread(release.catalogue.search, q, limit)
        answer = ItemsAnswer(
            release=release.version, items=[Item(**_facts_of(release, item)) for item in found]
        )
        return _looked_up(request, release, answer)

    @router.get("/users", response_model=UserAnswer)
    async def user_of(user_id: QueryId, request: Request) -> Response:
        """What is stored of a user, whatever the id."""
        return await user(user_id, request)

    @router.get("/users/{user_id:path}", response_model=UserAnswer)
    async def user(user_id: PathId, request: Request) -> Response:
        """What is stored of a user."""
        release = gateway.releases.stable
        return _looked_up(request, release, await _user(gateway, user_id, release))

    @router.get("/releases", response_model=ReleasesAnswer)
    async def releases(request: Request) -> Response:
        """The releases and what answers."""
        state = gateway.releases.state
        rollout = state.rollout
        answer = ReleasesAnswer(
            stable=gateway.releases.stable.version,
            candidate=rollout.version if rollout else None,
            rollout={k: v for k, v in asdict(rollout).items() if k != "salt"} if rollout else None,
            versions=list(state.versions),
            models=await gateway.releases.answering(),
            history=list(state.history),
            categories=gateway.releases.stable.catalogue.frequent_categories,
            ratings=(gateway.settings.validation.min_rating, gateway.settings.validation.max_rating),
        )
        return _looked_up(request, gateway.releases.stable, answer)

    return router


def health_routes(gateway: Gateway) -> APIRouter:
    """For whoever runs the gateway."""
    router = APIRouter(responses=FAILURE, tags=["operate"])

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz")
    async def alive() -> dict[str, str]:
        """The process answers."""
        return {"status": "alive"}

    @router.head("/readyz", include_in_schema=False)
    @router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness}})
    async def ready() -> Response:
        """Whether it should be sent requests: until it is about to end; it answers without a model, too."""
        facts = Readiness(
            ready=not gateway.draining,
            triton=await gateway.releases.is_answering(),
            store=gateway.users.store_answers,
            draining=gateway.draining,
        )
        return Response(facts.model_dump_json(), 200 if facts.ready else 503, media_type="application/json")

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counters in Prometheus' text format."""
        return Response(gateway.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return router


def _answered(request: Request, answer: RecommendationAnswer | RankAnswer) -> Response:
    facts: Facts = request.scope[FACTS]
    facts.request_id = answer.request_id
    facts.release = answer.release
    facts.stage = answer.stage
    facts.outcome = _outcome(answer)
    return _json(answer)


def _outcome(answer: RecommendationAnswer | RankAnswer) -> str:
    if answer.degraded == "popular_items":
        return "degraded"
    if isinstance(answer, RecommendationAnswer) and not answer.known:  # a ranker is asked for strangers, too
        return "unknown"
    if not answer.items:
        return "empty"
    return "stale" if answer.degraded else "ok"


def _looked_up(request: Request, release: Release, answer: BaseModel) -> Response:
    request.scope[FACTS].release = release.version
    return _json(answer)


def _json(answer: BaseModel) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")


def _facts_of(release: Release, item: int) -> dict:
    catalogue = release.catalogue
    return {
        "item_id": catalogue.item_ids[item],
        "title": catalogue.titles[item],
        "categories": catalogue.categories[item],
    }


async def _user(gateway: Gateway, user_id: str, release: Release) -> UserAnswer:
    try:
        user, is_stale = await gateway.users.get(pseudonym_of(user_id, gateway.pseudonym_key))
    except FeatureStoreError:
        # Why is for the gateway's log: it names addresses and files that are no caller's business.
        raise FaultError(503, "the user's row cannot be read now; ask again", {"Retry-After": "1"}) from None
    row = user.row
    if row is None:
        return UserAnswer(known=False, degraded=None, history=[], attributes={})
    catalogue = release.catalogue
    past = zip(row.history.tolist(), row.history_ratings.tolist(), strict=True)
    # Items younger than the release have no title yet.
    known = [(item, rating) for item, rating in past if UNKNOWN_INDEX < item < len(catalogue.titles)]
    attributes = {
        name: release.attributes[name][index - 1]
        for name, index in row.user_attributes.items()
        if 0 < index <= len(release.attributes.get(name, []))
    }
    return UserAnswer(
        known=True,
        degraded="stale_row" if is_stale else None,
        history=[
            PastItem(item_id=catalogue.item_ids[item], title=catalogue.titles[item], rating=rating)
            for item, rating in reversed(known)
        ],
        attributes=attributes,
    )
