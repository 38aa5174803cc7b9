"""A file of lines that only grows, and locks between processes that share a folder."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from pathlib import Path
from typing import BinaryIO, Self

from leanrec.errors import HostError

LOCK_S = 1.0
"""Seconds to wait for a `FileLock`; who commits holds it as long as an fsync takes."""

_log = logging.getLogger(__name__)
_DISK_IS_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_BLOCK = 1 << 14
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.0002, 0.001


class LogFile:
    """One file of one writer, open at its end; `broken` after a failure that it could not undo."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.broken = False
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
        self._lock = FileLock(path)  # of a file that is there, so that its rights are those of above
        try:
            with path.open("rb") as stream:
                self._length = end_of_lines(stream)
            self._cut()
            for folder in (path.parent, path.parent.parent):  # so that the names outlive a power cut, too
                fsync(folder)
        except BaseException:
            self.close()
            raise

    def append(self, data: bytes) -> None:
        """Write `data`, whole lines, and return once they are on the disk; on failure none of them stays."""
        with self._lock:
            try:
                written = 0
                while written < len(data):
                    written += os.pwrite(self._descriptor, data[written:], self._length + written)
                os.fsync(self._descriptor)
            except BaseException:
                try:
                    self._cut()
                except OSError:
                    self.broken = True  # opened anew, it is cut before anything is written
                raise
            self._length += len(data)

    def close(self) -> None:
        """Let go of the file."""
        self._lock.close()
        os.close(self._descriptor)

    def _cut(self) -> None:
        os.ftruncate(self._descriptor, self._length)
        os.fsync(self._descriptor)


class FileLock:
    """`with lock:` nobody else has the lock on the file `path`, in whatever process: the kernel frees it.

    Who has it for longer than `LOCK_S` hangs. Blocks are run without it then, until it is free again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o660)
        self._is_held = True
        self._since = 0.0

    def __enter__(self) -> Self:
        is_held = self._acquired(LOCK_S if self._is_held else 0.0)
        if self._is_held and not is_held:
            _log.error("%s: a process has held this lock for more than %g s; end it", self._path, LOCK_S)
        self._is_held, self._since = is_held, time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_held:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def is_overdue(self) -> bool:
        """Whether the block has run for so long that others may have gone on without the lock."""
        return time.monotonic() - self._since > LOCK_S

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)

    def _acquired(self, wait_s: float) -> bool:
        until, pause_s = time.monotonic() + wait_s, _FIRST_PAUSE_S
        while not _locked(self._descriptor, fcntl.LOCK_EX):
            if time.monotonic() >= until:
                return False
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return True


def committed_end(path: Path) -> int | None:
    """Where the last line ends that the file's writer has committed; None while it is about to."""
    with path.open("rb") as stream:
        return end_of_lines(stream) if _locked(stream.fileno(), fcntl.LOCK_SH) else None


def end_of_lines(stream: BinaryIO) -> int:
    """Where the last whole line of the file ends: behind it lies what a killed writer left half-written."""
    start = stream.seek(0, os.SEEK_END)
    while start > 0:
        size = min(_BLOCK, start)
        start = stream.seek(start - size)
        newline = stream.read(size).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
    return 0


def lines_before(path: Path, end: int, *, start: int = 0, most: int) -> list[bytes]:
    """The lines from `start` to `end`, which lie between lines; of more than `most`, the last ones."""
    blocks: list[bytes] = []
    at, num_lines = end, 0
    with path.open("rb") as stream:
        while at > start and num_lines <= most:
            size = min(_BLOCK, at - start)
            at = stream.seek(at - size)
            blocks.append(stream.read(size))
            num_lines += blocks[-1].count(b"\n")
    lines = b"".join(reversed(blocks)).split(b"\n")[:-1]
    return lines[max(0, len(lines) - most) :]


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_writer(folder: Path, writer: str) -> int:
    """The descriptor that holds the name `writer` for this process; a HostError when another has it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / f"{writer}.lock"
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o640)
    if not _locked(descriptor, fcntl.LOCK_EX):
        os.close(descriptor)
        raise HostError(
            f"{lock}: another process writes the event log under this name; give each process its own"
        )
    return descriptor


def explained(error: OSError, folder: Path) -> HostError:
    """The sentence for a log in `folder` that the system would not let us write."""
    if error.errno in _DISK_IS_FULL:
        return HostError(
            f"event log {folder}: the disk is full ({os.strerror(error.errno)}), so no event was taken; "
            "free space there, then send the same events again"
        )
    return HostError(
        f"event log {folder}: it cannot be written ({error.strerror or error}), so no event was taken; "
        "mend the folder's disk or permissions, then send the same events again"
    )


def fsync(path: Path) -> None:
    """Return once the file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
