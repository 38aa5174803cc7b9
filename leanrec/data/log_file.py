"""A file of lines that only grows: whole lines, on the disk when `append` returns, or none of them."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from leanrec.errors import HostError

_DISK_IS_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class LogFile:
    """One file of one writer, open at its end. `broken` after a failure that it could not undo."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.broken = False
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
        try:
            self._length = path.read_bytes().rfind(b"\n") + 1
            self._cut()
            for folder in (path.parent, path.parent.parent):  # so that the names outlive a power cut, too
                fsync(folder)
        except BaseException:
            os.close(self._descriptor)
            raise

    def append(self, data: bytes) -> None:
        """Write `data`, whole lines, and return once they are on the disk; on failure none of them stays."""
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
        os.close(self._descriptor)

    def _cut(self) -> None:
        os.ftruncate(self._descriptor, self._length)
        os.fsync(self._descriptor)


def lock_writer(folder: Path, writer: str) -> int:
    """The descriptor that holds the name `writer` for this process; a HostError when another has it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / f"{writer}.lock"
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise HostError(
            f"{lock}: another process writes the event log under this name; give each process its own"
        ) from None
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
