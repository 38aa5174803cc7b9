"""What goes in and out of the gateway, as JSON: the contract with product teams."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_ID_LENGTH = 256
NO_CONTROL_CHARACTERS = r"^[^\x00-\x1f\x7f-\x9f]+$"

Identifier = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_ID_LENGTH, pattern=NO_CONTROL_CHARACTERS)
]
"""A user's or an item's id as in the raw data."""
Stage = Literal["stable", "candidate"]
Degraded = Literal["stale_row", "popular_items"]
"""What an answer fell back to: a user row past its time, or the most liked items of the release."""


class Request(BaseModel):
    """Strict: no key that is not known, no number as a string."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class Response(BaseModel):
    """What the gateway answers."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class RecommendationRequest(Request):
    """Who wants how many items, and which not."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"user_id": "42", "k": 10, "explain": True}]})

    user_id: Identifier
    k: int = Field(default=10, ge=1, le=10_000)
    """Items wanted; at most as many as the release answers."""
    exclude_seen: bool = True
    """Leave out what the user has had to do with."""
    exclude_items: list[Identifier] = Field(default=[], max_length=1000)
    """Leave these out too; ids that the release does not know do no harm."""
    categories: list[Identifier] = Field(default=[], max_length=100)
    """Items of at least one of these categories only; none: of any."""
    diversity: Annotated[float, Field(strict=False, ge=0, le=1, allow_inf_nan=False)] = 0.0
    """0: by score alone; towards 1: the more unlike each other (maximal marginal relevance)."""
    explain: bool = False
    """Name liked items that are near each recommended one."""
    release: int | None = Field(default=None, ge=1, le=2**31)
    """Answer from this release (stable or candidate), to compare; none: the user's own."""


class Recommendation(Response):
    """One item of an answer."""

    rank: int
    item_id: str
    title: str
    categories: list[str]
    score: float
    """P(watch) * P(like); of popular items, likes relative to the most liked one."""
    because: list[str] = []
    """Titles of liked items near this one."""


class Timings(Response):
    """Milliseconds that the answer took inside the gateway."""

    features: float
    model: float
    total: float


class RecommendationAnswer(Response):
    """Recommendations, best first; fewer than asked for where no more pass the filters."""

    request_id: str
    """Send it back with events: they credit the release, if its model answered and you did not choose it."""
    release: int
    stage: Stage
    known: bool
    """Whether anything is stored of the user."""
    degraded: Degraded | None
    items: list[Recommendation]
    timings_ms: Timings


class RankRequest(Request):
    """Items to put a figure on for a user."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"user_id": "42", "item_ids": ["50", "181"]}]})

    user_id: Identifier
    item_ids: list[Identifier] = Field(min_length=1, max_length=1000)


class RankedItem(Response):
    """An item's figures for the user."""

    item_id: str
    score: float
    """P(watch) * P(like); likes relative to the most liked item where `degraded` is popular_items."""
    like: float | None
    """P(rating >= the liked threshold); none with popular_items."""
    rating: float | None
    """The expected rating; none with popular_items."""


class RankAnswer(Response):
    """The items in the order asked."""

    request_id: str
    release: int
    stage: Stage
    known: bool
    degraded: Degraded | None
    items: list[RankedItem]


class SimilarItem(Response):
    """An item near another; the score is the cosine of their vectors."""

    rank: int
    item_id: str
    title: str
    categories: list[str]
    score: float


class SimilarAnswer(Response):
    """The nearest items of the stable release, nearest first."""

    release: int
    items: list[SimilarItem]


class Item(Response):
    """An item of the catalogue."""

    item_id: str
    title: str
    categories: list[str]


class ItemsAnswer(Response):
    """Items whose title holds the words looked for; those liked most come first."""

    release: int
    items: list[Item]


class PastItem(Response):
    """An item of a user's history."""

    item_id: str
    title: str
    rating: float


class UserAnswer(Response):
    """What is stored of a user."""

    known: bool
    degraded: Degraded | None
    history: list[PastItem]
    """Newest first, as far as the user row holds it."""
    attributes: dict[str, str]


class ReleasesAnswer(Response):
    """What the repository holds and what answers."""

    stable: int
    candidate: int | None
    rollout: dict[str, Any] | None
    """The rollout under way, as release.json has it; without its salt."""
    versions: list[int]
    """Kept, ascending."""
    models: dict[str, list[int]]
    """Versions of each model that answer now in every Triton replica that can be reached."""
    history: list[dict[str, Any]]
    """Transitions, oldest first: at, action, from, to, reason."""
    categories: list[str]
    """Categories of the stable release's items, most frequent first, at most 100."""
    ratings: tuple[float, float]
    """The least and the greatest rating that an event may have."""


class Readiness(Response):
    """Whether this gateway should be sent requests, and how good its answers are."""

    ready: bool
    """It answers: with a model, or where none does with popular items, declared."""
    triton: bool
    """The stable release answers; without it answers are degraded."""
    store: bool
    """The online store answered when it was last asked; without it answers are degraded."""
    draining: bool


class Fault(Response):
    """What went wrong, in one sentence."""

    code: str
    message: str


class ErrorAnswer(Response):
    """The form of every error."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"error": {"code": "not_found", "message": "item 'x9' is unknown"}}]}
    )

    error: Fault
