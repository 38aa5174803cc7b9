"""Write a file or a folder whole or not at all: beside, fsync, rename."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leanrec.errors import HostError

_DISK_IS_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path`; when the block ends well, it takes `path`'s place.

    When the block raises, `path` is as it was and nothing is left beside it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=f".tmp{path.suffix}", dir=path.parent)
    os.close(descriptor)
    beside = Path(name)
    try:
        yield beside
        beside.chmod(0o644)
        _fsync(beside)
        beside.replace(path)
        _fsync(path.parent)
    except OSError as error:
        _explain_full_disk(error, path)
        raise
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; when the block ends well, it becomes `path`.

    An older folder at `path` is replaced. When the block raises, `path` is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        yield beside
        beside.chmod(0o755)
        fsync_tree(beside)
        if path.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
            path.rename(retired / path.name)
            beside.rename(path)
            shutil.rmtree(retired)
        else:
            beside.rename(path)
        _fsync(path.parent)
    except OSError as error:
        _explain_full_disk(error, path)
        raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def fsync_tree(folder: Path) -> None:
    """Return once `folder` and everything below it are on the disk."""
    for path in Path(folder).rglob("*"):
        _fsync(path)
    _fsync(folder)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with atomic_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


def finite(value: Any) -> Any:
    """`value` as JSON can hold it: a number that is NaN or infinite is null, in dictionaries too."""
    if isinstance(value, dict):
        return {name: finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path`, whole or not at all. NaN is refused."""
    write_text(path, json.dumps(value, indent=2, sort_keys=False, allow_nan=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    """The value in the JSON file at `path`."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def sha256_of(path: Path) -> str:
    """The hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def size_in_bytes(path: Path) -> int:
    """The bytes of a file, or of all files below a folder."""
    path = Path(path)
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _explain_full_disk(error: OSError, path: Path) -> None:
    """Raise a HostError when the system's error says that there is no room to write."""
    if error.errno in _DISK_IS_FULL:
        raise HostError(
            f"{path}: the disk is full ({os.strerror(error.errno)}) and nothing was written; "
            f"free space in {path.parent} or choose another folder"
        ) from error


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
