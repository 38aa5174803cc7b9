"""The Feast project on this machine: where its files lie, its configuration, its one writer.

<repository>/
  registry.db    what `feast apply` registered; replaced whole
  offline/       the tables of the newest materialized run; replaced whole
  online.db      the SQLite online store (online: sqlite); replaced whole
  .lock          held by whoever writes any of the above
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ibis
from feast import RepoConfig
from feast.repo_config import MaterializationConfig
from ibis.backends.duckdb import Backend

from leanrec.config import FeatureStoreSettings
from leanrec.errors import FeatureStoreError
from leanrec.features.definitions import PROJECT
from leanrec.features.engine import duckdb_engine

REDIS_PASSWORD_VARIABLE = "LEANREC_REDIS_PASSWORD"  # noqa: S105 - the name of a variable, not a password

REDIS_CONNECT_TIMEOUT_S = 2
REDIS_TIMEOUT_S = 5

ENTITY_KEY_VERSION = 3
"""Feast's layout of the keys in the online store."""

ROWS_A_WRITE = 10_000
"""User rows handed to the online store at a time: bounds memory and the length of a Redis pipeline."""


def registry_path(settings: FeatureStoreSettings) -> Path:
    """The file of the Feast registry."""
    return Path(settings.repository).absolute() / "registry.db"


def offline_path(settings: FeatureStoreSettings) -> Path:
    """The folder of the offline tables."""
    return Path(settings.repository).absolute() / "offline"


def online_path(settings: FeatureStoreSettings) -> Path:
    """The file of the SQLite online store."""
    return Path(settings.repository).absolute() / "online.db"


def repo_config(
    settings: FeatureStoreSettings, *, registry: Path | None = None, online: Path | None = None
) -> RepoConfig:
    """Feast's configuration, the same that `feature_repo/feature_store.yaml` spells out.

    `registry` and `online` (SQLite only) put those files elsewhere: a writer works beside.
    """
    if settings.online == "redis":
        online_store: dict[str, Any] = {
            "type": "redis",
            "connection_string": _redis_connection(settings),
            # Feast otherwise skips a row whose timestamp it already has, though its values changed.
            "skip_dedup": True,
        }
    else:
        online_store = {"type": "sqlite", "path": str(online or online_path(settings))}
    return RepoConfig(
        project=PROJECT,
        provider="local",
        registry=str(registry or registry_path(settings)),
        offline_store={"type": "duckdb"},
        online_store=online_store,
        entity_key_serialization_version=ENTITY_KEY_VERSION,
        materialization=MaterializationConfig(online_write_batch_size=ROWS_A_WRITE),
        repo_path=Path(settings.repository).absolute(),
    )


@contextlib.contextmanager
def writing(settings: FeatureStoreSettings) -> Iterator[None]:
    """Be the project's only writer; a second one waits here until the first is done."""
    repository = Path(settings.repository)
    try:
        repository.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(repository / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise FeatureStoreError(
            f"feature_store.repository {repository}: cannot be written ({error.strerror}); "
            "make it writable or name another folder"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def quiet_engine() -> Iterator[Backend]:
    """Give Feast a DuckDB of its own in UTC and close it after; what Feast prints is dropped.

    Feast's duckdb store runs on ibis's default backend, which would otherwise outlive the call.
    """
    before = ibis.options.default_backend
    feast_log = logging.getLogger("feast")
    level = feast_log.level
    with duckdb_engine() as engine, contextlib.redirect_stdout(io.StringIO()):
        ibis.set_backend(engine)
        feast_log.setLevel(logging.ERROR)
        warnings.simplefilter("ignore")
        try:
            yield engine
        finally:
            feast_log.setLevel(level)
            ibis.options.default_backend = before


def _redis_connection(settings: FeatureStoreSettings) -> str:
    host, colon, port = settings.redis.rpartition(":")
    if not (host and colon and port.isdecimal()) or "," in host:
        raise FeatureStoreError(
            f"feature_store.redis is {settings.redis!r}, not HOST:PORT; write it like localhost:6379"
        )
    parts = [
        f"{host}:{port}",
        f"socket_connect_timeout={REDIS_CONNECT_TIMEOUT_S}",
        f"socket_timeout={REDIS_TIMEOUT_S}",
        # redis-py would try for half a minute; whoever asks for a user has an answer to give meanwhile.
        "retry=null",
    ]
    password = os.environ.get(REDIS_PASSWORD_VARIABLE)
    if password:
        # Feast splits at commas and reads each value as JSON: quote it, so that any password arrives whole.
        parts.append("password=" + json.dumps(password).replace(",", "\\u002c"))
    return ",".join(parts)
