"""The event log: what people did with recommendations, on the disk before anybody is told so.

    <folder>/<YYYY-MM-DD>/<writer>.jsonl     the UTC day of receipt; one writer a process

Append-only JSON lines. Many appends that wait at the same time share one fsync (group commit, as in
DeWitt et al., "Implementation techniques for main memory database systems", SIGMOD 1984). An append
returns when its events are on the disk; if it raises, the file is cut back to what was acknowledged
before. A line that a killed writer left half-written was never acknowledged: readers skip it, and the
same writer cuts it off when it starts again.

An event id counts once. Writers commit one after another (a lock on the folder), and each first reads what
the others have added: it knows the newest ids of all, and answers a repeated one without writing it.
`read_events` drops every repetition, however long ago. An id that comes with other content is refused. A
day's folder may be deleted once its events are in the base files: every run reads the whole log
(docs/retraining.md).
"""

from __future__ import annotations

import io
import json
import logging
import os
import queue
import re
import threading
from collections import ChainMap
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from leanrec.data.log_file import FileLock, LogFile, explained, lock_writer
from leanrec.data.taken_events import TakenEvents, content_of, difference, log_files
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
"""Event ids that a writer knows at most, the newest: about 90 MB."""
FOLLOW_S = 1.0
"""Seconds without an event after which a writer reads what others have added, so that it is never much."""

_log = logging.getLogger(__name__)
_WRITER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LONGEST_LINE = 1 << 24


@dataclass(frozen=True, kw_only=True)
class FeedbackEvent:
    """One thing that a user did with an item."""

    event_id: str
    user_id: str
    """Pseudonym."""
    item_id: str
    type: Literal["impression", "click", "rating"]
    rating: float | None = None
    timestamp: datetime | None = None
    """With a time zone; none: when it was received."""
    request_id: str | None = None
    release: int | None = None


class TakenIdError(DataError):
    """An event's id was taken before, for another event."""

    def __init__(self, event_id: str, number: int, fields: Sequence[str]) -> None:
        names = " and ".join(fields)
        super().__init__(
            f"event {event_id!r}: its id was taken before, with another {names}; give each event its own"
        )
        self.number = number
        """The event's place in the call."""
        self.fields = tuple(fields)


class EventLog:
    """The one writer `writer` of the log in `folder`. It may be used from several threads.

    A second process with the same name is refused: a lock on `<folder>/<writer>.lock`, which the kernel
    frees with the process, tells them apart. The newest `remembered_ids` ids of all writers are known.
    """

    def __init__(self, folder: Path, writer: str, *, remembered_ids: int = REMEMBERED_IDS) -> None:
        if not _WRITER.fullmatch(writer):
            raise DataError(
                f"event log {folder}: the writer's name {writer!r} is no file name; use letters, digits, ._-"
            )
        self._folder = Path(folder)
        self._writer = writer
        self._closed = False
        self._submitting = threading.Lock()
        self._queue: queue.SimpleQueue[_Append | None] = queue.SimpleQueue()
        self._file: LogFile | None = None
        try:
            self._lock = lock_writer(self._folder, writer)
            self._commits = FileLock(self._folder / ".commits")
            self._taken = TakenEvents(self._folder, bound=remembered_ids, today=_today())
        except OSError as error:
            raise explained(error, self._folder) from error
        self._committer = threading.Thread(target=self._commit_groups, name="event-log", daemon=True)
        self._committer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, events: Sequence[FeedbackEvent]) -> list[bool]:
        """Write `events`; once it returns they are on the disk. For each, whether it is new.

        Raises HostError when the disk takes nothing more; none of `events` is acknowledged then, and the same
        call may be made again. Raises TakenIdError when one has the id of another event; none is taken then.
        Raises ValueError for text that is not Unicode or a rating that is not finite.
        """
        return self.submit(events).result()

    def submit(self, events: Sequence[FeedbackEvent]) -> Future[list[bool]]:
        """`append`, without waiting: the future answers what `append` would."""
        received_at = datetime.now(UTC)
        lines = tuple(_line(event, received_at) for event in events)
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
        self._commits.close()
        (self._folder / f"{self._writer}.lock").unlink(missing_ok=True)
        os.close(self._lock)

    def _commit_groups(self) -> None:
        while True:
            group, closing = self._next_group()
            self._commit([append for append in group if append.future.set_running_or_notify_cancel()])
            if closing:
                return

    def _next_group(self) -> tuple[list[_Append], bool]:
        """Wait for an append, then take all that wait beside it; none where none comes within `FOLLOW_S`."""
        group: list[_Append] = []
        with suppress(queue.Empty):
            following = self._queue.get(timeout=FOLLOW_S)
            while following is not None:
                group.append(following)
                following = self._queue.get_nowait()
            return group, True
        return group, False

    def _commit(self, group: list[_Append]) -> None:
        # A repeated id is answered with its group: never before the first of them is on the disk.
        fresh: dict[str, _Line] = {}
        try:
            with self._commits as lock:
                self._taken.follow(_today(), self._writer)
                answers = [self._judged(append.lines, fresh) for append in group]
                if fresh:
                    self._file_of(_today()).append(b"".join(line.text for line in fresh.values()))
                if lock.is_overdue():
                    self._taken.follow(_today(), self._writer)
        except BaseException as error:  # the committer lives on, and whoever waits learns why
            reason = explained(error, self._folder) if isinstance(error, OSError) else error
            for append in group:
                append.future.set_exception(reason)
            return
        overtaken = {event_id for event_id in fresh if event_id in self._taken}
        self._taken.add((line.event_id, line.content) for line in fresh.values())
        for append, answer in zip(group, answers, strict=True):
            if isinstance(answer, TakenIdError):
                append.future.set_exception(answer)
            else:
                ids = (line.event_id for line in append.lines)
                append.future.set_result(
                    [new and name not in overtaken for name, new in zip(ids, answer, strict=True)]
                )

    def _judged(self, lines: Sequence[_Line], fresh: dict[str, _Line]) -> list[bool] | TakenIdError:
        """Whether each of an append's lines is new; where all may be taken, `fresh` gets the new ones."""
        new: dict[str, _Line] = {}
        answer = []
        for number, line in enumerate(lines):
            first = ChainMap(new, fresh).get(line.event_id)
            content = first.content if first else self._taken.get(line.event_id)
            fields = difference(content, line.content) if content else ()
            if fields:
                return TakenIdError(line.event_id, number, fields)
            answer.append(content is None)
            if content is None:
                new[line.event_id] = line
        fresh.update(new)
        return answer

    def _file_of(self, day: date) -> LogFile:
        path = self._folder / day.isoformat() / f"{self._writer}.jsonl"
        if self._file is None or self._file.path != path or self._file.broken:
            if self._file is not None:
                self._file.close()
                self._file = None
            self._file = LogFile(path)
        return self._file


def read_events(folder: Path, since: datetime | None = None) -> pa.Table:
    """The log's events (`FEEDBACK`), each id once and as first received, ordered by receipt.

    `since` (with a time zone) leaves out what was received before it. Several writers' clocks differ and
    an event lies in its file a moment after `received_at`, so a reader that goes on from where it was
    gives a `since` some minutes earlier and drops the ids that it has. A missing folder is an empty log.

    A DataError names the file whose lines, a torn last one aside, are not events.
    """
    tables = [FEEDBACK.empty_table()]
    for path in log_files(Path(folder)):
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
class _Line:
    event_id: str
    content: bytes
    text: bytes


@dataclass(frozen=True, kw_only=True)
class _Append:
    lines: tuple[_Line, ...]
    future: Future[list[bool]]


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


def _line(event: FeedbackEvent, received_at: datetime) -> _Line:
    fields: dict[str, Any] = {
        "event_id": event.event_id,
        "user_id": event.user_id,
        "item_id": event.item_id,
        "type": event.type,
        "rating": event.rating,
        "timestamp": _iso(event.timestamp or received_at),
        "received_at": _iso(received_at),
        "request_id": event.request_id,
        "release": event.release,
    }
    text = json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"
    return _Line(event_id=event.event_id, content=content_of(fields), text=text)


def _today() -> date:
    return datetime.now(UTC).date()


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
