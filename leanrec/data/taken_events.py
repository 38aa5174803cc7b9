"""Which event ids a log has taken, by whichever writer, and what each of them stood for.

Of an event's content only checksums are kept (CRC-32, one for each field): enough to name the fields in which
an event that comes under a known id differs from the first one. A time that the sender left out, or that was
ahead of the gateway's clock, is the time of receipt in the log; it contradicts no other time.
"""

from __future__ import annotations

import json
import logging
import re
import struct
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from leanrec.data.log_file import LOCK_S, committed_end, fsync, lines_before

COMPARED = ("user_id", "item_id", "type", "rating", "timestamp", "request_id")
"""The fields that one event id stands for."""

_log = logging.getLogger(__name__)
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_CHECKSUMS = struct.Struct(f"<{len(COMPARED)}I")
_TIME = COMPARED.index("timestamp")
_OF_RECEIPT = zlib.crc32(b"None")


def content_of(fields: Mapping[str, Any]) -> bytes:
    """The checksums of an event's `fields`, as its line in the log has them."""
    values = {name: fields[name] for name in COMPARED}
    if values["timestamp"] == fields["received_at"]:
        values["timestamp"] = None
    return _CHECKSUMS.pack(*(zlib.crc32(repr(value).encode()) for value in values.values()))


def difference(first: bytes, other: bytes) -> tuple[str, ...]:
    """The fields in which two contents differ."""
    one, two = _CHECKSUMS.unpack(first), _CHECKSUMS.unpack(other)
    same_time = one[_TIME] == two[_TIME] or _OF_RECEIPT in (one[_TIME], two[_TIME])
    return tuple(
        name
        for number, name in enumerate(COMPARED)
        if one[number] != two[number] and not (number == _TIME and same_time)
    )


class TakenEvents(Mapping[str, bytes]):
    """Id -> content of the newest `bound` events that the log in `folder` holds; used by one thread.

    Only what its writer has committed counts: a line that a full disk takes back was never there.
    """

    def __init__(self, folder: Path, *, bound: int, today: date) -> None:
        self._folder = folder
        self._bound = bound
        self._contents: OrderedDict[str, bytes] = OrderedDict()
        self._read_to: dict[Path, int] = {}
        self._read_newest(today)

    def __getitem__(self, event_id: str) -> bytes:
        return self._contents[event_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._contents)

    def __len__(self) -> int:
        return len(self._contents)

    def add(self, events: Iterable[tuple[str, bytes]]) -> None:
        """Know these ids and contents, too; the oldest ones beyond the bound are forgotten."""
        for event_id, content in events:
            self._contents.setdefault(event_id, content)
        while len(self._contents) > self._bound:
            self._contents.popitem(last=False)

    def follow(self, today: date, own: str) -> None:
        """Learn what writers other than `own` have committed since."""
        before, self._read_to = self._read_to, {}
        for path in _recent_files(self._folder, today):
            if path.name == f"{own}.jsonl":
                continue
            start = self._read_to[path] = before.get(path, 0)
            with suppress(FileNotFoundError):  # a day's folder may be deleted at any time
                end = committed_end(path)
                if end not in (start, None):
                    self.add(self._events(path, end, start if start < end else 0, self._bound))
                    self._read_to[path] = end

    def _read_newest(self, today: date) -> None:
        found: list[list[tuple[str, bytes]]] = []
        room = self._bound
        recent = set(_recent_files(self._folder, today))
        for path in reversed(log_files(self._folder)):
            if room <= 0 and path not in recent:
                break
            with suppress(FileNotFoundError):
                end = _awaited_end(path)
                if room > 0:
                    found.append(self._events(path, end, 0, room))
                    room -= len(found[-1])
                self._read_to[path] = end
        for events in reversed(found):
            self.add(events)

    def _events(self, path: Path, end: int, start: int, most: int) -> list[tuple[str, bytes]]:
        """The events in the lines between; what is none is logged and passed over."""
        events: list[tuple[str, bytes]] = []
        num_damaged = 0
        for line in lines_before(path, end, start=start, most=most):
            try:
                fields = json.loads(line)
                if not isinstance(fields["event_id"], str):
                    raise TypeError
                events.append((fields["event_id"], content_of(fields)))
            except (ValueError, KeyError, TypeError, RecursionError):
                # It keeps runs from reading, and nobody from writing.
                num_damaged += 1
        if num_damaged:
            _log.error("%s: %d lines are no events, so ids in them are not known as taken", path, num_damaged)
        # A killed writer may have written what it never brought to the disk; from now on we answer for it.
        fsync(path)
        return events


def log_files(folder: Path) -> list[Path]:
    """Every writer's files, oldest day first."""
    days = sorted(day for day in folder.glob("*") if _DAY.fullmatch(day.name))
    return [path for day in days for path in sorted(day.glob("*.jsonl"))]


def _awaited_end(path: Path) -> int:
    """`committed_end` after the commit under way; of one that hangs nothing counts, and it is read later."""
    until = time.monotonic() + LOCK_S
    while (end := committed_end(path)) is None and time.monotonic() < until:
        time.sleep(0.001)
    return end or 0


def _recent_files(folder: Path, today: date) -> Iterator[Path]:
    """The files that somebody may write to now: clocks differ, but by less than a day."""
    for days in (-1, 0, 1):
        day = folder / (today + timedelta(days)).isoformat()
        with suppress(FileNotFoundError):
            yield from (path for path in sorted(day.iterdir()) if path.suffix == ".jsonl")
