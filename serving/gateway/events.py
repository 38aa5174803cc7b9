"""POST /v1/events: what people did, on the disk before it is acknowledged, and in their row right after.

An event counts once, by its `event_id`, however often it is sent, and to whichever gateway that shares the
folder of the log. A call is taken whole or not at all. Items that the stable release does not know are taken
too: the catalogue may be younger than the release. They stay out of the user's row, since no index stands for
them yet.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter

from leanrec.config import RunSettings
from leanrec.data.event_log import EventLog, FeedbackEvent, TakenIdError
from leanrec.data.log_file import FileLock
from leanrec.data.pseudonyms import pseudonym_of
from leanrec.errors import HostError
from leanrec.features.push import OnlineUsersWriter, Rating
from leanrec.schema import EARLIEST
from serving.gateway.event_models import Event, EventsAnswer, EventsRequest
from serving.gateway.faults import ERRORS, FaultError, shown
from serving.gateway.metrics import Metrics
from serving.gateway.online_rows import OnlineRows
from serving.gateway.request_id import credited_release

if TYPE_CHECKING:
    from serving.gateway.gateway import Gateway

CLOCK_SKEW = timedelta(seconds=60)
"""How far the sender's clock may be ahead of ours."""
NO_RELEASE = "none"
"""The metrics' release of an event that credits none."""

_log = logging.getLogger(__name__)


class Feedback:
    """Takes events: checks, pseudonymises, credits, writes, and brings them online.

    `index_of` answers an item's index, None for one that is not known. `forget` is told the users whose row
    changed. An acknowledged caller waits for the row, but not longer than the store's deadline.
    """

    def __init__(
        self,
        settings: RunSettings,
        *,
        pseudonym_key: bytes,
        request_key: bytes,
        index_of: Callable[[str], int | None],
        forget: Callable[[str], None],
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._pseudonym_key = pseudonym_key
        self._request_key = request_key
        self._index_of = index_of
        self._forget = forget
        self._metrics = metrics
        folder = event_log_folder(settings)
        self._log = EventLog(folder, writer_name())
        self._rows_lock = FileLock(folder / ".rows")
        self._rows = OnlineRows(
            lambda: OnlineUsersWriter(settings.feature_store, settings.features),
            self._rows_lock,
            settings.gateway.store_pause_ms / 1e3,
            metrics,
        )

    async def take(self, events: Sequence[Event]) -> EventsAnswer:
        """Write `events` and answer; a FaultError names the one that is wrong, or a disk that takes none."""
        now = datetime.now(UTC)
        for number, event in enumerate(events):
            self._check(number, event, now)
        taken = [self._canonical(event, now) for event in events]
        try:
            # Shielded: a caller that goes away must not leave half of a group unanswered.
            is_new = await asyncio.shield(asyncio.wrap_future(self._log.submit(taken)))
        except HostError as error:
            _log.error("%s", error)
            message = "the event log cannot be written now, so no event was taken; send the same events again"
            raise FaultError(503, message, {"Retry-After": "5"}) from None
        except TakenIdError as error:
            raise FaultError(409, _other_content(error, events)) from None
        new = [event for event, fresh in zip(taken, is_new, strict=True) if fresh]
        for credited in new:
            self._metrics.feedback.labels(str(credited.release or NO_RELEASE), credited.type).inc()
        self._metrics.repeated_events.inc(len(taken) - len(new))
        known = [(event, index) for event in new if (index := self._index_of(event.item_id)) is not None]
        await self._bring_online(known, now)
        return EventsAnswer(
            accepted=len(new), duplicates=len(taken) - len(new), unknown_items=len(new) - len(known)
        )

    async def close(self) -> None:
        """Write what was taken, bring it online if the store answers, and let go of the log."""
        await asyncio.to_thread(self._rows.close)
        await asyncio.to_thread(self._log.close)
        self._rows_lock.close()

    def _check(self, number: int, event: Event, now: datetime) -> None:
        bounds = self._settings.validation
        least, most = bounds.min_rating, bounds.max_rating
        if (event.type == "rating") != (event.rating is not None):
            reason = "it is a rating without one" if event.rating is None else f"a {event.type} has no rating"
            fix = "send `rating` with type rating, and with it only"
        elif event.rating is not None and not least <= event.rating <= most:
            reason = f"its rating {event.rating:g} is not within {least:g} to {most:g}"
            fix = "send it on the scale of the training data"
        elif event.timestamp and event.timestamp > now + CLOCK_SKEW:
            reason = f"its timestamp {event.timestamp.isoformat()} lies in the future"
            fix = f"mend the sender's clock: at most {CLOCK_SKEW.seconds} s are let pass"
        elif event.timestamp and event.timestamp < EARLIEST:
            reason = f"its timestamp {event.timestamp.isoformat()} lies before {EARLIEST.year}"
            fix = "send the time when it happened, or none"
        elif (latest := self._settings.data.latest_accepted()) and (event.timestamp or now) > latest:
            reason = f"its timestamp {(event.timestamp or now).isoformat()} lies after data.max_timestamp"
            fix = f"send events up to {latest.isoformat()}, or take the setting away"
        else:
            return
        raise FaultError(422, f"event {shown(event.event_id)} (events.{number}): {reason}; {fix}")

    def _canonical(self, event: Event, now: datetime) -> FeedbackEvent:
        return FeedbackEvent(
            event_id=event.event_id,
            user_id=pseudonym_of(event.user_id, self._pseudonym_key),
            item_id=event.item_id,
            type=event.type,
            rating=event.rating,
            timestamp=event.timestamp if event.timestamp and event.timestamp <= now else None,
            request_id=event.request_id,
            release=credited_release(event.request_id, self._request_key) if event.request_id else None,
        )

    async def _bring_online(self, events: Sequence[tuple[FeedbackEvent, int]], now: datetime) -> None:
        """Ratings and clicks, as the next run reads them; impressions change no row."""
        ratings: dict[str, list[Rating]] = {}
        for event, index in events:
            if event.type != "impression":
                ratings.setdefault(event.user_id, []).append(self._rating(event, index, now))
        if not ratings:
            return
        pushed = asyncio.wrap_future(self._rows.push(ratings))
        pushed.add_done_callback(lambda _: [self._forget(user) for user in ratings])
        # The caller's events are safe: it does not wait for a store that does not answer.
        await asyncio.wait({pushed}, timeout=self._settings.gateway.store_deadline_ms / 1e3)

    def _rating(self, event: FeedbackEvent, index: int, now: datetime) -> Rating:
        rating = event.rating
        if rating is None:
            implied = self._settings.data.click_rating
            rating = self._settings.features.liked_threshold if implied is None else implied
        return Rating(
            item_index=index,
            rating=rating,
            timestamp=event.timestamp or now,
            is_implied=event.type == "click",
        )


def router(gateway: Gateway) -> APIRouter:
    """The route of events."""
    routes = APIRouter(prefix="/v1", responses=ERRORS, tags=["feedback"])

    @routes.post("/events")
    async def take_events(body: EventsRequest) -> EventsAnswer:
        """Tell what users did: what they were shown, clicked, rated. Sent again, an event counts once."""
        return await gateway.feedback.take(body.events)

    return routes


def _other_content(error: TakenIdError, events: Sequence[Event]) -> str:
    """The sentence for an event whose id stands for another one."""
    *most, last = (f"`{name}`" for name in error.fields)
    fields = f"{', '.join(most)} and {last}" if most else last
    return (
        f"event {shown(events[error.number].event_id)} (events.{error.number}): its id was taken before, with"
        f" another {fields}, so no event of this call was taken; give each event an id of its own"
    )


def event_log_folder(settings: RunSettings) -> Path:
    """Where the gateway writes events: `gateway.event_log`, else where runs read them, `data.feedback`."""
    folder = settings.gateway.event_log or settings.data.feedback
    return Path(folder) if folder else Path(settings.feature_store.repository).parent / "events"


def writer_name() -> str:
    """The name of this process's file in the event log: the same again in a restarted container."""
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:60]
    return f"gateway-{host}-{os.getpid()}"
