"""Feedback: what the event log adds to the base events, and how much of it is new since a release.

Ratings become events. A click becomes an event with `data.click_rating`: the first one of a user on an item,
and none where the user has rated that item or has a base event with it, for those say more. Impressions
become no events; `leanrec.evaluation.online` counts them. An event on an item that the items table lacks is
set aside and counted. The same log and base tables give the same events.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from leanrec.data.event_log import FEEDBACK, read_events
from leanrec.errors import DataError
from leanrec.files import atomic_directory, read_json, write_json
from leanrec.schema import EARLIEST, EVENTS

SUMMARY_FILE = "feedback.json"
JOINED_FILE = "events.parquet"
EXAMPLES = 5
"""Unknown item ids that the summary names."""

JOINED = pa.schema([FEEDBACK.field(name) for name in ("event_id", "user_id", "received_at")])
"""What `events.parquet` of the feedback artifact holds: the events that came from the log."""

# Newest receipt wins between ratings of one user, item and moment; the base events win over the log.
_JOIN = """
    with known as (select * from log semi join items using (item_id)),
    ratings as (
        select event_id, user_id, item_id, timestamp, coalesce(rating, 'nan'::float) as rating, received_at
        from known where type = 'rating'
        qualify row_number() over (partition by user_id, item_id, timestamp
                                   order by received_at desc, event_id) = 1),
    clicks as (
        select event_id, user_id, item_id, timestamp, $click_rating::float as rating, received_at
        from known where type = 'click'
        qualify row_number() over (partition by user_id, item_id
                                   order by timestamp, received_at, event_id) = 1)
    select * from ratings
      anti join base using (user_id, item_id, timestamp)
      anti join base using (event_id)
    union all
    select * from clicks
      anti join (select user_id, item_id from base union select user_id, item_id from ratings)
        using (user_id, item_id)
      anti join base using (event_id)
    order by timestamp, event_id
"""


@dataclass(frozen=True, kw_only=True)
class Watermark:
    """How far a release has read the event log."""

    received_at: datetime | None = None
    """Receipt of the last event read; None: none was there."""
    num_events: int = 0
    """Events read, of every type."""

    @classmethod
    def of_lineage(cls, lineage: dict[str, Any]) -> Self:
        """The watermark in the lineage of a release's manifest; a release without one has read nothing."""
        summary = lineage.get("feedback") or {}
        at = summary.get("watermark")
        return cls(
            received_at=datetime.fromisoformat(at) if at else None,
            num_events=int(summary.get("num_events", 0)),
        )

    def new_events(self, log: pa.Table) -> tuple[pa.Table, int]:
        """What of `log` (`FEEDBACK`) was received later, and how many events are new.

        The number may be above the rows: writers' clocks differ, so an event may lie in the log only after a
        later one was read. Such a straggler is no row here, but it counts.
        """
        if self.received_at is None:
            return log, len(log)
        later = log.filter(pc.greater(log["received_at"], pa.scalar(self.received_at, FEEDBACK.types[6])))
        stragglers = len(log) - len(later) - self.num_events
        return later, len(later) + max(0, stragglers)


@dataclass(frozen=True, kw_only=True)
class FeedbackSummary:
    """What was read of the log and what became of it: the content of feedback.json."""

    watermark: str | None = None
    """Receipt of the last event read (ISO 8601, UTC)."""
    num_events: int = 0
    """Events read, of every type."""
    num_untimely: int = 0
    """Events set aside because their time is before `EARLIEST`; a gateway takes none such."""
    by_type: dict[str, int]
    """Events read: impression, click, rating."""
    num_joined: int = 0
    """Ratings and clicks that became events."""
    num_unknown_items: int = 0
    """Ratings and clicks set aside because the items table lacks the item."""
    unknown_items: tuple[str, ...] = ()
    """Some of those items."""
    num_repeated: int = 0
    """Ratings and clicks that say again what another event says better."""


def join_feedback(
    events: pa.Table, items: pa.Table, folder: Path, *, click_rating: float
) -> tuple[pa.Table, pa.Table, FeedbackSummary]:
    """The base `events` and the log's, what came from the log (`JOINED`), and the counts.

    `events` and `items` are canonical tables, and so is the answer (sorted by timestamp and event_id).
    A DataError names the log's file that cannot be read.
    """
    whole = read_events(Path(folder))
    log = whole.filter(pc.greater_equal(whole["timestamp"], pa.scalar(EARLIEST, whole["timestamp"].type)))
    known = {"item_id": items["item_id"]}
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("set timezone = 'UTC'")
        for name, table in {"log": log, "base": events, "items": pa.table(known)}.items():
            connection.register(name, table)
        joined = connection.sql(_JOIN, params={"click_rating": click_rating}).to_arrow_table()
    acted = log.filter(pc.not_equal(log["type"], "impression"))
    strange = acted.filter(pc.invert(pc.is_in(acted["item_id"], value_set=items["item_id"].combine_chunks())))
    newest = pc.max(whole["received_at"]).as_py()
    summary = FeedbackSummary(
        watermark=newest.isoformat() if newest else None,
        num_events=len(whole),
        num_untimely=len(whole) - len(log),
        by_type={"impression": 0, "click": 0, "rating": 0} | Counter(log["type"].to_pylist()),
        num_joined=len(joined),
        num_unknown_items=len(strange),
        unknown_items=tuple(sorted(set(strange["item_id"].to_pylist()))[:EXAMPLES]),
        num_repeated=len(acted) - len(strange) - len(joined),
    )
    every = pa.concat_tables([events, joined.select(EVENTS.names).cast(EVENTS)])
    ordered = every.sort_by([("timestamp", "ascending"), ("event_id", "ascending")])
    return ordered, joined.select(JOINED.names).cast(JOINED), summary


def write_feedback(output: Path, joined: pa.Table, summary: FeedbackSummary) -> None:
    """Write the `feedback` artifact: feedback.json and events.parquet, both or neither."""
    with atomic_directory(Path(output)) as folder:
        pq.write_table(joined, folder / JOINED_FILE)
        write_json(folder / SUMMARY_FILE, asdict(summary))


def read_joined(folder: Path, since: datetime | None) -> pa.Array:
    """The ids of the events that came from the log and were received after `since` (all without it)."""
    path = Path(folder) / JOINED_FILE
    try:
        joined = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not what ingest wrote ({error}); run ingest_events again") from None
    if since is not None:
        joined = joined.filter(pc.greater(joined["received_at"], pa.scalar(since, JOINED.types[2])))
    return joined["event_id"].combine_chunks()


def read_summary(folder: Path) -> dict[str, Any]:
    """The content of feedback.json."""
    summary: dict[str, Any] = read_json(Path(folder) / SUMMARY_FILE)
    return summary
