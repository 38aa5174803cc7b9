"""Ingest: raw files become the canonical tables, all three or none.

What breaks the shape of a table (a missing column, text where a number belongs, an id that is
not there) is refused here. What is a matter of content (a rating out of range, a duplicate event,
an item that nobody described) goes through, so that validation can show the rows.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from leanrec.config import DataSettings
from leanrec.data.columns import (
    read_categories,
    read_ids,
    read_ratings,
    read_text,
    read_timestamps,
    read_years,
)
from leanrec.data.feedback import JOINED, FeedbackSummary, join_feedback, write_feedback
from leanrec.data.pseudonyms import pseudonymize
from leanrec.data.sources import SOURCES
from leanrec.data.sources.raw import EVENTS as RAW_EVENTS
from leanrec.data.sources.raw import ITEMS as RAW_ITEMS
from leanrec.data.sources.raw import RawTable, RawTables
from leanrec.errors import ConfigError, DataError
from leanrec.files import atomic_file, sha256_of
from leanrec.journal import step
from leanrec.schema import EVENTS, ITEMS, users_schema


@dataclass(frozen=True, kw_only=True)
class IngestSummary:
    """What was ingested. digest: SHA-256 over the three files; notice: the source's terms of use."""

    num_events: int
    num_items: int
    num_users: int
    first_timestamp: datetime
    last_timestamp: datetime
    digest: str
    notice: str
    feedback: FeedbackSummary


@step("ingest_events")
def ingest(
    settings: DataSettings,
    *,
    key: bytes,
    events: Path,
    items: Path,
    users: Path,
    feedback: Path | None = None,
) -> IngestSummary:
    """Write the canonical tables (leanrec/schema.py) to `events`, `items` and `users` as Parquet.

    Rows are sorted, so the same raw rows give the same bytes. User ids become pseudonyms under
    `key`; those of the event log (`data.feedback`) are pseudonyms already. What came from the log goes to
    the folder `feedback`. A DataError names the file, column, row and value that cannot be used, a HostError
    a full disk; either way nothing is written.
    """
    _check_column_names(settings)
    raw = SOURCES[settings.source](settings)
    event_table = canonical_events(raw.events, key)
    item_table = canonical_items(raw.items)
    user_table = canonical_users(raw, settings.user_attributes, event_table["user_id"], key)
    joined, summary = JOINED.empty_table(), FeedbackSummary(by_type={})
    if settings.feedback is not None:
        event_table, joined, summary = join_feedback(
            event_table, item_table, Path(settings.feedback), click_rating=_rating_of_click(settings)
        )
        user_table = _with_new_users(user_table, joined["user_id"])
    _write_all({Path(events): event_table, Path(items): item_table, Path(users): user_table})
    if feedback is not None:
        write_feedback(feedback, joined, summary)
    times = event_table["timestamp"]
    return IngestSummary(
        num_events=len(event_table),
        num_items=len(item_table),
        num_users=len(user_table),
        first_timestamp=times[0].as_py(),
        last_timestamp=times[-1].as_py(),
        digest=_digest(events, items, users),
        notice=raw.notice,
        feedback=summary,
    )


def canonical_events(raw: RawTable, key: bytes) -> pa.Table:
    """The events table, sorted by timestamp and event_id.

    A source without event ids gets `<pseudonym>-<item_id>-<microseconds>`, so that an event keeps
    its id when it is ingested again, and a duplicate event shows as a duplicate id.
    """
    _require_rows(raw)
    user_ids = pseudonymize(read_ids(raw, "user_id"), key)
    item_ids = read_ids(raw, "item_id")
    timestamps = read_timestamps(raw)
    if "event_id" in raw.table.column_names:
        event_ids = read_ids(raw, "event_id")
    else:
        microseconds = pc.cast(pc.cast(timestamps, pa.int64()), pa.string())
        event_ids = pc.binary_join_element_wise(
            *(column.combine_chunks() for column in (user_ids, item_ids, microseconds)), "-"
        )
    columns = [event_ids, user_ids, item_ids, timestamps, read_ratings(raw)]
    table = pa.Table.from_arrays(columns, names=EVENTS.names).cast(EVENTS)
    return table.sort_by([("timestamp", "ascending"), ("event_id", "ascending")])


def canonical_items(raw: RawTable) -> pa.Table:
    """The items table, sorted by item_id; without the optional columns, no categories and no years."""
    _require_rows(raw)
    num_rows = len(raw.table)
    names = raw.table.column_names
    columns = [
        read_ids(raw, "item_id"),
        pc.fill_null(read_text(raw, "title"), ""),
        read_categories(raw) if "categories" in names else pa.array([[]] * num_rows, ITEMS.types[2]),
        read_years(raw) if "release_year" in names else pa.nulls(num_rows, pa.int32()),
    ]
    table = pa.Table.from_arrays(columns, names=ITEMS.names).cast(ITEMS)
    return table.sort_by("item_id")


def canonical_users(
    raw: RawTables, user_attributes: tuple[str, ...], event_user_ids: pa.ChunkedArray, key: bytes
) -> pa.Table:
    """The users table, sorted by user_id; without a file of users, everybody who has an event."""
    schema = users_schema(user_attributes)
    if raw.users is None:
        if user_attributes:
            raise ConfigError(
                f"data.user_attributes names {', '.join(user_attributes)}, but data.users names no file "
                "that could hold them; set data.users or leave data.user_attributes empty"
            )
        return pa.table({"user_id": pc.unique(event_user_ids)}, schema=schema).sort_by("user_id")
    _require_rows(raw.users)
    missing = [name for name in user_attributes if name not in raw.users.table.column_names]
    if missing:
        raise ConfigError(
            f"data.user_attributes: {raw.users.origin} has no column '{missing[0]}'; it has "
            f"{', '.join(name for name in raw.users.table.column_names if name != 'user_id')}"
        )
    columns = [pseudonymize(read_ids(raw.users, "user_id"), key)]
    columns += [read_text(raw.users, name) for name in user_attributes]
    return pa.Table.from_arrays(columns, names=schema.names).cast(schema).sort_by("user_id")


def _rating_of_click(settings: DataSettings) -> float:
    if settings.click_rating is None:
        raise ConfigError("data.feedback: a click needs a rating; set data.click_rating")
    return settings.click_rating


def _with_new_users(users: pa.Table, user_ids: pa.ChunkedArray) -> pa.Table:
    """The users table and those of `user_ids` (of the event log) that it lacks, without attributes."""
    found = pc.unique(user_ids)
    new = found.filter(pc.invert(pc.is_in(found, value_set=users["user_id"].combine_chunks())))
    attributes = [pa.nulls(len(new), field.type) for field in users.schema if field.name != "user_id"]
    rows = pa.Table.from_arrays([new, *attributes], schema=users.schema)
    return pa.concat_tables([users, rows]).sort_by("user_id")


def _check_column_names(settings: DataSettings) -> None:
    ours = {*RAW_EVENTS.required, *RAW_EVENTS.optional, *RAW_ITEMS.required, *RAW_ITEMS.optional}
    ours |= set(settings.user_attributes)
    for name in settings.columns:
        if name not in ours:
            raise ConfigError(
                f"data.columns: '{name}' is not a column of LeanRec, which has {', '.join(sorted(ours))}; "
                "each key is our name and each value the name in your files"
            )


def _require_rows(raw: RawTable) -> None:
    if len(raw.table) == 0:
        raise DataError(f"{raw.origin}: the file has a header and no rows; it needs at least one")


def _write_all(tables: dict[Path, pa.Table]) -> None:
    """Write every table beside its place, and only when all lie on the disk let them take it."""
    with ExitStack() as stack:
        for path, table in tables.items():
            beside = stack.enter_context(atomic_file(path))
            pq.write_table(table, beside, compression="zstd")
            with beside.open("rb") as written:  # a full disk may only show here
                os.fsync(written.fileno())


def _digest(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(bytes.fromhex(sha256_of(path)))
    return digest.hexdigest()
