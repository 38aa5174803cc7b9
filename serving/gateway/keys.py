"""API keys: a file of `name:sha256-hex` lines, so that whoever reads it still cannot call."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import time
from pathlib import Path

from leanrec.errors import ConfigError, HostError

KEYS_VARIABLE = "LEANREC_GATEWAY_KEYS"
LOCAL_NAME = "local"
LOOK_S = 0.5
"""Seconds between two looks at the file."""

_log = logging.getLogger(__name__)


class ApiKeys:
    """The keys in the file at `path`, read again when it changes.

    A file that cannot be read or is damaged is a ConfigError at the start; later the last good keys stay.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(path)
        self._names = _read(self._path)
        self._stamp = self._stamp_now()
        self._looked = time.monotonic()

    def name_of(self, key: str) -> str | None:
        """Whose key it is; None when nobody's. Takes as long whichever key it is."""
        self._follow()
        if not key:  # `printf %s "$KEY" | sha256sum` with no KEY set must not open the door to everybody
            return None
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        found = None
        for name, known in self._names.items():
            if hmac.compare_digest(known, digest):
                found = name
        return found

    def _follow(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._names = _read(self._path)
        except ConfigError as error:
            _log.error("%s; the keys read before stay valid", error)

    def _stamp_now(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size


def keys_file(setting: str) -> Path:
    """The file of keys: LEANREC_GATEWAY_KEYS, else the setting."""
    return Path(os.environ.get(KEYS_VARIABLE) or setting)


def local_key(keys: Path) -> str | None:
    """The key of whoever works on this machine, made with the file of keys on first use.

    It lies beside the file, as `<name>.local`, readable by its owner only. None where the file was made by
    somebody else, who knows the keys in it.
    """
    secret = keys.with_name(f"{keys.name}.local")
    try:
        if not keys.exists():
            keys.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            key = secrets.token_urlsafe(32)
            _write_private(secret, key + "\n")
            _write_private(keys, f"{LOCAL_NAME}:{hashlib.sha256(key.encode()).hexdigest()}\n")
        if not secret.exists():
            return None
        key = secret.read_text(encoding="ascii").strip()
    except OSError as error:
        raise HostError(
            f"{keys}: the file of API keys cannot be made ({error.strerror}); mend its permissions or name"
            f" another with {KEYS_VARIABLE}"
        ) from None
    return key if ApiKeys(keys).name_of(key) else None


def _read(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: the file of API keys cannot be read ({getattr(error, 'strerror', error)}); write lines"
            f" name:sha256-hex, or name another file with {KEYS_VARIABLE}"
        ) from None
    names = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, digest = line.strip().rpartition(":")
        if not (name and colon and len(digest) == 64 and set(digest) <= set("0123456789abcdef")):
            raise ConfigError(
                f"{path}: line {number} is not name:sha256-hex; write `name:` and what"
                " `printf %s KEY | sha256sum` prints"
            )
        names[name] = digest
    if not names:
        raise ConfigError(f"{path}: it holds no key, so nobody could call; add a line name:sha256-hex")
    return names


def _write_private(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(path)
