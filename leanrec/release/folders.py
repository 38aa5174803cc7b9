"""What a model repository does on the disk: a lock, durable renames, hard links, removal that may fail."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from leanrec.errors import ReleaseError

LOCK = ".lock"
LOOK_AGAIN_S = 0.05
REMOVED = ".removed-"
"""How the name of a folder begins that is out of use and not yet off the disk."""

_log = logging.getLogger(__name__)


@contextmanager
def held(folder: Path, wait_s: float) -> Iterator[None]:
    """Be the only process that changes `folder`; as for `locked`."""
    refusal = f"{folder}: process {{}} is changing this repository; try again when it has ended"
    with locked(folder / LOCK, wait_s, refusal):
        yield


@contextmanager
def locked(file: Path, wait_s: float, refusal: str) -> Iterator[None]:
    """Hold the lock on `file`, which then says the process; the kernel frees the lock of one that dies.

    Raises a ReleaseError that says `refusal`, with the holder in place of {}, when another process still
    holds it after `wait_s` seconds.
    """
    deadline = time.monotonic() + wait_s
    with file.open("a+") as lock:
        while not _is_free(lock):
            if time.monotonic() >= deadline:
                lock.seek(0)
                raise ReleaseError(refusal.format(lock.read().strip() or "unknown"))
            time.sleep(LOOK_AGAIN_S)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def is_held(file: Path) -> bool:
    """Whether a process holds the lock on `file` now; where that cannot be told, yes."""
    try:
        with file.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def rename(source: Path, target: Path) -> None:
    """Rename, and make the name durable."""
    source.replace(target)
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link(source: str, target: str) -> None:
    """A second name for the file; a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def set_aside(folder: Path) -> None:
    """Rename `folder` to a hidden one, which takes no room; so no version is ever half removed."""
    try:
        folder.rename(folder.with_name(f"{REMOVED}{folder.name}-{secrets.token_hex(4)}"))
    except OSError as error:
        _warn_of_rest(folder, error)


def remove_set_aside(repository: Path) -> None:
    """Take what was set aside in `repository`, or in a model's folder there, off the disk."""
    for pattern in (f"{REMOVED}*", f"*/{REMOVED}*"):
        for folder in repository.glob(pattern):
            try:
                shutil.rmtree(folder)
            except OSError as error:
                _warn_of_rest(folder, error)


def _warn_of_rest(folder: Path, error: OSError) -> None:
    _log.warning("%s is out of use but cannot be removed (%s); the next command tries again", folder, error)


def _is_free(lock: IO[str]) -> bool:
    """Whether the lock could be taken, which it then is."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
