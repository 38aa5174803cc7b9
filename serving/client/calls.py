"""The gateway's calls as values: what the blocking client and the async one send and read alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypedDict, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from leanrec.errors import ServingError
from serving.client import values
from serving.gateway.api import (
    ItemsAnswer,
    RankAnswer,
    RecommendationAnswer,
    ReleasesAnswer,
    SimilarAnswer,
    UserAnswer,
)
from serving.gateway.event_models import Event, EventsAnswer

AnswerT = TypeVar("AnswerT", bound=BaseModel)


class GatewayError(ServingError):
    """The gateway refused: its own sentence, its `code`, and the HTTP `status`."""

    def __init__(self, message: str, *, status: int, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Wishes(TypedDict, total=False):
    """What a recommendation may be asked for besides; `RecommendationRequest` says what each means."""

    exclude_seen: bool
    exclude_items: Iterable[str]
    categories: Iterable[str]
    diversity: float
    explain: bool
    release: int | None


CHECKS = {
    "exclude_seen": values.flag,
    "exclude_items": values.identifiers,
    "categories": values.identifiers,
    "diversity": values.share,
    "explain": values.flag,
    "release": values.release,
}
"""What lets each wish through."""


@dataclass(frozen=True, kw_only=True)
class Call(Generic[AnswerT]):
    """One call. Every call may be sent twice: events count once by their ids, and the rest only reads."""

    answer: type[AnswerT]
    path: str
    query: dict[str, str | int] | None = None
    body: dict[str, Any] | None = None

    def request(self, client: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """The call as an HTTP request of `client`."""
        method = "GET" if self.body is None else "POST"
        return client.build_request(method, self.path, params=self.query, json=self.body)

    def read(self, response: httpx.Response) -> AnswerT:
        """The answer in `response`; a GatewayError with its sentence where it is a refusal."""
        try:
            if response.is_success:
                return self.answer.model_validate_json(response.content)
            error = response.json()["error"]
            raise GatewayError(error["message"], status=response.status_code, code=error["code"])
        except (ValidationError, ValueError, KeyError, TypeError):
            raise ServingError(
                f"{response.url}: the answer (HTTP {response.status_code}) is none of LeanRec's gateway;"
                " look at the address and at what lies between"
            ) from None


@contextmanager
def told(client: httpx.Client | httpx.AsyncClient, call: Call[Any]) -> Iterator[None]:
    """Whatever the library raises while `client` makes `call`, as a ServingError."""
    where = f"{str(client.base_url).rstrip('/')}{call.path}"
    try:
        yield
    except Exception as error:
        reason = str(error) or type(error).__name__
        said = f"the call cannot be made ({reason}); look at the client's address and at the call's values"
        if isinstance(error, httpx.TransportError):
            said = f"no answer, twice ({reason}); start one with `leanrec gateway`, or give it more time"
        raise ServingError(f"{where}: {said}") from None


def recommend(user_id: str, k: int, wishes: Wishes) -> Call[RecommendationAnswer]:
    """POST /v1/recommendations."""
    asked = {"user_id": values.identifier("user_id", user_id), "k": values.whole("k", k)}
    body = {**asked, **values.named(CHECKS, wishes)}
    return Call(answer=RecommendationAnswer, path="/v1/recommendations", body=body)


def rank(user_id: str, item_ids: Iterable[str]) -> Call[RankAnswer]:
    """POST /v1/rank."""
    body = {
        "user_id": values.identifier("user_id", user_id),
        "item_ids": values.identifiers("item_ids", item_ids),
    }
    return Call(answer=RankAnswer, path="/v1/rank", body=body)


def similar(item_id: str, k: int | None) -> Call[SimilarAnswer]:
    """GET /v1/items/similar: the id in the query, for "." and ".." would lead to another path."""
    query: dict[str, str | int] = {"item_id": values.identifier("item_id", item_id)}
    if k is not None:
        query["k"] = values.whole("k", k)
    return Call(answer=SimilarAnswer, path="/v1/items/similar", query=query)


def search_items(words: str, limit: int) -> Call[ItemsAnswer]:
    """GET /v1/items."""
    query: dict[str, str | int] = {"q": values.text("words", words), "limit": values.whole("limit", limit)}
    return Call(answer=ItemsAnswer, path="/v1/items", query=query)


def user(user_id: str) -> Call[UserAnswer]:
    """GET /v1/users, the id in the query."""
    return Call(answer=UserAnswer, path="/v1/users", query={"user_id": values.identifier("user_id", user_id)})


def releases() -> Call[ReleasesAnswer]:
    """GET /v1/releases."""
    return Call(answer=ReleasesAnswer, path="/v1/releases")


def send_events(events: Sequence[Event]) -> Call[EventsAnswer]:
    """POST /v1/events."""
    body = {"events": values.several("events", events, values.event)}
    return Call(answer=EventsAnswer, path="/v1/events", body=body)
