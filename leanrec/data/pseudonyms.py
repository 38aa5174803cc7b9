"""Pseudonyms: a keyed hash stands for every raw user id, everywhere that LeanRec writes one.

HMAC-SHA256 (RFC 2104, FIPS 198-1) shortened to 128 bits. Without the key nobody can test whether
a known person is in a table; with it the same person gets the same pseudonym in every run.
"""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import stat
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from leanrec.errors import ConfigError, HostError

KEY_VARIABLE = "LEANREC_PSEUDONYM_KEY"
KEY_FILE = Path(".leanrec") / "pseudonym.key"
MIN_KEY_BYTES = 16
PSEUDONYM_LENGTH = 32
"""Hex characters of a pseudonym: 128 bits, so that ten billion users still do not collide."""

# A NUL byte, which no user id in a text file holds, keeps the fingerprint apart from every pseudonym.
_FINGERPRINT_LABEL = b"\0leanrec key fingerprint"

_log = logging.getLogger(__name__)


def load_key() -> bytes:
    """The key in LEANREC_PSEUDONYM_KEY, else the one in `.leanrec/pseudonym.key`, made on first use.

    Two processes that make it at the same time agree on one key. No message ever shows it.
    """
    if KEY_VARIABLE in os.environ:
        return _long_enough(os.environ[KEY_VARIABLE].strip().encode(), f"environment variable {KEY_VARIABLE}")
    try:
        if not KEY_FILE.exists():
            _create_key(KEY_FILE)
        if KEY_FILE.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            _log.warning("%s can be read by others; run: chmod 600 %s", KEY_FILE, KEY_FILE)
        key = KEY_FILE.read_bytes().strip()
    except OSError as error:
        raise HostError(
            f"{KEY_FILE}: the pseudonym key cannot be read or made ({error.strerror}); "
            f"mend the file's permissions or set {KEY_VARIABLE}"
        ) from None
    return _long_enough(key, str(KEY_FILE))


def load_matching_key(fingerprint: str) -> bytes:
    """The key of this environment, which must be the one that `fingerprint` names; empty names any."""
    key = load_key()
    found = key_fingerprint(key)
    if fingerprint and found != fingerprint:
        raise ConfigError(
            f"pseudonym key: this environment has the key {found}, the run was planned with {fingerprint}; "
            f"give both the same {KEY_VARIABLE}"
        )
    return key


def key_fingerprint(key: bytes) -> str:
    """Eight hex characters that name the key and do not tell it; safe to log."""
    return hmac.digest(key, _FINGERPRINT_LABEL, "sha256").hex()[:8]


def pseudonymize(user_ids: pa.Array | pa.ChunkedArray, key: bytes) -> pa.ChunkedArray:
    """The pseudonym of each raw user id (strings without nulls), in the same order.

    Each distinct id is hashed once, about a microsecond each.
    """
    encoded = pc.dictionary_encode(pa.chunked_array(user_ids)).unify_dictionaries()
    if encoded.num_chunks == 0:
        return pa.chunked_array([], type=pa.string())
    names = encoded.chunk(0).dictionary.to_pylist()
    hashed = pa.array([pseudonym_of(name, key) for name in names], type=pa.string())
    return pa.chunked_array([hashed.take(chunk.indices) for chunk in encoded.chunks], type=pa.string())


def pseudonym_of(user_id: str, key: bytes) -> str:
    """The pseudonym of one raw user id: 32 hex characters."""
    return hmac.digest(key, user_id.encode(), "sha256").hex()[:PSEUDONYM_LENGTH]


def _long_enough(key: bytes, place: str) -> bytes:
    if len(key) < MIN_KEY_BYTES:
        raise ConfigError(
            f"{place}: the pseudonym key has {len(key)} bytes, it needs at least {MIN_KEY_BYTES}; "
            "make one with: openssl rand -hex 32"
        )
    return key


def _create_key(path: Path) -> None:
    """Write a new key beside `path` and link it into place; whoever links first has made the key."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(32) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        # Unlike a rename, a link fails when the other process was faster: its key stands.
        os.link(beside, path)
        _log.info("made a new pseudonym key in %s; keep it: without it every user is a new one", path)
    except FileExistsError:
        pass
    finally:
        beside.unlink(missing_ok=True)
