"""The event log: what people did with recommendations, on the disk before anybody is told so.

    <folder>/<YYYY-MM-DD>/<writer>.jsonl     the UTC day of receipt; one writer a process

Append-only JSON lines. Many appends that wait at the same time share one fsync (group commit, as in
DeWitt et al., "Implementation techniques for main memory database systems", SIGMOD 1984). An append
returns when its events are on the disk; if it raises, the file is cut back to what was acknowledged
before. A line that a killed writer left half-written was never acknowledged: readers skip it, and the
same writer cuts it off when it starts again.

An event id counts once. A writer knows the newest ids and answers a repeated one without writing it;
`read_events` drops every repetition, whoever wrote it and however long ago. A day's folder may be
deleted once its events are in the base files: every run reads the whole log (docs/retraining.md).
"""

from __future__ import annotations

import io
import json
import logging
import os
import queue
import re
import threading
from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from leanrec.data.log_file import LogFile, explained, fsync, lock_writer
from leanrec.errors import DataError, HostError

FEEDBACK = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("type", pa.string(), nullable=False),
        pa.field("rating", pa.float32(), nullable=True),
        pa.field("timestamp", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("received_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("request_id", pa.string(), nullable=True),
        pa.field("release", pa.int64(), nullable=True),
    ]
)
"""What `read_events` answers. `user_id` is a pseudonym; only a "rating" has a rating; `release` is the one
whose answer the event credits, null where it credits none."""

REMEMBERED_IDS = 200_000
"""Event ids that a writer knows at most, the newest: about 30 MB."""

_log = logging.getLogger(__name__)
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_WRITER = re.compile(r"[A-Za-z0-9._-]{1,100}")
_LONGEST_LINE = 1 << 24


@dataclass(frozen=True, kw_only=True)
class FeedbackEvent:
    """One thing that a user did with an item. `timestamp` has a time zone."""

    event_id: str
    user_id: str
    """Pseudonym."""
    item_id: str
    type: Literal["impression", "click", "rating"]
    rating: float | None = None
    timestamp: datetime
    request_id: str | None = None
    release: int | None = None


class EventLog:
    """The one writer `writer` of the log in `folder`. It may be used from several threads.

    A second process with the same name is refused: a lock on `<folder>/<writer>.lock`, which the kernel
    frees with the process, tells them apart. Opening reads the newest `remembered_ids` ids of all writers.
    """

    def __init__(self, folder: Path, writer: str, *, remembered_ids: int = REMEMBERED_IDS) -> None:
        if not _WRITER.fullmatch(writer):
            raise DataError(
                f"event log {folder}: the writer's name {writer!r} is no file name; use letters, digits, ._-"
            )
        self._folder = Path(folder)
        self._writer = writer
        self._remembered_ids = remembered_ids
        self._closed = False
        self._submitting = threading.Lock()
        self._queue: queue.SimpleQueue[_Append | None] = queue.SimpleQueue()
        self._file: LogFile | None = None
        try:
            self._lock = lock_writer(self._folder, writer)
            self._order = deque(_newest_ids(self._folder, remembered_ids))
        except OSError as error:
            raise explained(error, self._folder) from error
        self._ids = set(self._order)
        self._committer = threading.Thread(target=self._commit_groups, name="event-log", daemon=True)
        self._committer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, events: Sequence[FeedbackEvent]) -> list[bool]:
        """Write `events`; once it returns they are on the disk. For each, whether it is new.

        Raises HostError when the disk takes nothing more; none of `events` is acknowledged then, and
        the same call may be made again. Raises ValueError for text that is not Unicode or a rating that
        is not finite.
        """
        return self.submit(events).result()

    def submit(self, events: Sequence[FeedbackEvent]) -> Future[list[bool]]:
        """`append`, without waiting: the future answers what `append` would."""
        received_at = datetime.now(UTC)
        lines = tuple((event.event_id, _line(event, received_at)) for event in events)
        append = _Append(lines=lines, future=Future())
        with self._submitting:  # what came behind the end of the queue would wait forever
            if self._closed:
                raise HostError(f"event log {self._folder}: it is closed; open it again before appending")
            self._queue.put(append)
        return append.future

    def close(self) -> None:
        """Write what was submitted, then let go of the file. Nothing may be submitted afterwards."""
        with self._submitting:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._committer.join()
        if self._file is not None:
            self._file.close()
        (self._folder / f"{self._writer}.lock").unlink(missing_ok=True)
        os.close(self._lock)

    def _commit_groups(self) -> None:
        while True:
            group, closing = self._next_group()
            group = [append for append in group if append.future.set_running_or_notify_cancel()]
            if group:
                self._commit(group)
            if closing:
                return

    def _next_group(self) -> tuple[list[_Append], bool]:
        """Wait for an append, then take all that wait beside it."""
        first = self._queue.get()
        if first is None:
            return [], True
        group = [first]
        with suppress(queue.Empty):
            while True:
                following = self._queue.get_nowait()
                if following is None:
                    return group, True
                group.append(following)
        return group, False

    def _commit(self, group: list[_Append]) -> None:
        # A repeated id is answered with its group: never before the first of them is on the disk.
        fresh: dict[str, bytes] = {}
        answers = []
        for append in group:
            answer = []
            for event_id, line in append.lines:
                is_new = event_id not in self._ids and event_id not in fresh
                if is_new:
                    fresh[event_id] = line
                answer.append(is_new)
            answers.append(answer)
        try:
            if fresh:
                self._file_of(datetime.now(UTC).date()).append(b"".join(fresh.values()))
        except BaseException as error:  # the committer lives on, and whoever waits learns why
            reason = explained(error, self._folder) if isinstance(error, OSError) else error
            for append in group:
                append.future.set_exception(reason)
            return
        self._remember(fresh)
        for append, answer in zip(group, answers, strict=True):
            append.future.set_result(answer)

    def _file_of(self, day: date) -> LogFile:
        path = self._folder / day.isoformat() / f"{self._writer}.jsonl"
        if self._file is None or self._file.path != path or self._file.broken:
            if self._file is not None:
                self._file.close()
                self._file = None
            self._file = LogFile(path)
        return self._file

    def _remember(self, ids: Collection[str]) -> None:
        self._ids.update(ids)
        self._order.extend(ids)
        while len(self._order) > self._remembered_ids:
            self._ids.discard(self._order.popleft())


def read_events(folder: Path, since: datetime | None = None) -> pa.Table:
    """The log's events (`FEEDBACK`), each id once and as first received, ordered by receipt.

    `since` (with a time zone) leaves out what was received before it. Several writers' clocks differ and
    an event lies in its file a moment after `received_at`, so a reader that goes on from where it was
    gives a `since` some minutes earlier and drops the ids that it has. A missing folder is an empty log.

    A DataError names the file whose lines, a torn last one aside, are not events.
    """
    tables = [FEEDBACK.empty_table()]
    for path in _log_files(Path(folder)):
        if since is None or path.parent.name >= since.astimezone(UTC).date().isoformat():
            tables.append(_read_file(path))
    events = pa.concat_tables(tables)
    if since is not None:
        events = events.filter(pc.greater_equal(events["received_at"], pa.scalar(since, FEEDBACK.types[6])))
    events = events.sort_by([("received_at", "ascending"), ("event_id", "ascending")])
    rows = pa.table({"event_id": events["event_id"], "row": pa.array(range(len(events)), pa.int64())})
    first = rows.group_by("event_id", use_threads=False).aggregate([("row", "min")])["row_min"]
    return events.take(first.combine_chunks().sort())


@dataclass(frozen=True, kw_only=True)
class _Append:
    lines: tuple[tuple[str, bytes], ...]
    """Each event's id and line."""
    future: Future[list[bool]]


def _log_files(folder: Path) -> list[Path]:
    """Every writer's files, oldest day first."""
    days = sorted(day for day in folder.glob("*") if _DAY.fullmatch(day.name))
    return [path for day in days for path in sorted(day.glob("*.jsonl"))]


def _newest_ids(folder: Path, bound: int) -> list[str]:
    """At most `bound` event ids, oldest first, day by day back from the newest."""
    ids: list[str] = []
    for path in reversed(_log_files(folder)):
        if len(ids) >= bound:
            break
        try:
            ids = _read_file(path)["event_id"].to_pylist() + ids
        except DataError as error:  # it keeps runs from reading, and nobody from writing
            _log.error("%s; ids in it are not known as taken", error)
        # A killed writer may have written what it never brought to the disk; from now on we answer for it.
        fsync(path)
    return ids[max(0, len(ids) - bound) :]


def _read_file(path: Path) -> pa.Table:
    whole = path.read_bytes()
    whole = whole[: whole.rfind(b"\n") + 1]
    if not whole:
        return FEEDBACK.empty_table()
    parsing = pyarrow.json.ParseOptions(explicit_schema=FEEDBACK, unexpected_field_behavior="ignore")
    blocks = pyarrow.json.ReadOptions(block_size=_LONGEST_LINE)
    try:
        table = pyarrow.json.read_json(io.BytesIO(whole), blocks, parsing).select(FEEDBACK.names)
        for field in FEEDBACK:
            if not field.nullable and table[field.name].null_count:
                raise pa.ArrowInvalid(f"a line without {field.name}")
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{path}: not a file of events ({error}); restore it, or move it out of the event log"
        ) from None
    return table.cast(FEEDBACK)


def _line(event: FeedbackEvent, received_at: datetime) -> bytes:
    fields: dict[str, Any] = {
        "event_id": event.event_id,
        "user_id": event.user_id,
        "item_id": event.item_id,
        "type": event.type,
        "rating": event.rating,
        "timestamp": _iso(event.timestamp),
        "received_at": _iso(received_at),
        "request_id": event.request_id,
        "release": event.release,
    }
    return json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
