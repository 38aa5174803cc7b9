"""Feedback events as JSON: what goes into `POST /v1/events` and what comes out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema

from serving.gateway.api import Identifier, Request, Response

MAX_EVENTS = 500


def _time(value: object) -> object:
    """ISO 8601 as a time in UTC; without an offset it is UTC."""
    if not isinstance(value, str | datetime):
        raise ValueError("a time is text in ISO 8601, such as 2026-01-31T12:00:00Z")
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else value
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("this is not a time in ISO 8601, such as 2026-01-31T12:00:00Z") from None


Time = Annotated[datetime, BeforeValidator(_time), WithJsonSchema({"type": "string", "format": "date-time"})]


class Event(Request):
    """One thing that a user did with an item."""

    event_id: Identifier
    """Yours, and unique: sent again, the event counts once; with other content it is refused (409)."""
    user_id: Identifier
    item_id: Identifier
    type: Literal["impression", "click", "rating"]
    rating: Annotated[float, Field(strict=False, allow_inf_nan=False)] | None = None
    """With type rating only, and always then."""
    timestamp: Time | None = None
    """When it happened; none: now."""
    request_id: Identifier | None = None
    """The `request_id` of the answer that showed the item: its release is credited, if its model answered."""


class EventsRequest(Request):
    """Events of any users, taken all or none."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "events": [
                        {"event_id": "e1", "user_id": "42", "item_id": "50", "type": "rating", "rating": 4}
                    ]
                }
            ]
        }
    )

    events: list[Event] = Field(min_length=1, max_length=MAX_EVENTS)


class EventsAnswer(Response):
    """What became of the events; all of them are on the disk."""

    accepted: int
    duplicates: int
    """Events whose id was taken before."""
    unknown_items: int
    """Accepted events about items that the stable release does not know."""
