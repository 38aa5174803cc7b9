"""Feast: the point-in-time training set, and the user rows brought online.

`build_training_set` works over the tables that it is given, in a project of its own that is gone
afterwards: its answer depends on its inputs and on nothing that another run left behind.
`materialize_features` is the one writer of the shared project.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import ibis
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureStore, RepoConfig
from redis import RedisError

from leanrec.config import FeatureStoreSettings
from leanrec.errors import DataError, FeatureStoreError
from leanrec.features import expressions
from leanrec.features.definitions import PROJECT, Definitions, define_features
from leanrec.features.online import redis_client, redis_failed, user_key, user_keys
from leanrec.features.point_in_time import join_features
from leanrec.features.project import (
    ROWS_A_WRITE,
    offline_path,
    online_path,
    quiet_engine,
    registry_path,
    repo_config,
    writing,
)
from leanrec.files import atomic_directory, atomic_file, read_json, write_json
from leanrec.journal import step

TABLES = ("user_profile", "user_activity", "user_seen", "item_statistics")
"""The files of the features folder that Feast reads."""

ALWAYS = (datetime(1900, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC))
"""No row lies outside: the newest row of each user is wanted, however old."""


@step("materialize_features")
def materialize_features(settings: FeatureStoreSettings, *, features: Path, output: Path) -> dict[str, Any]:
    """Bring the user rows of the folder `features` online and register the project.

    Writes to `output` (JSON), and returns, `online` ("sqlite" or "redis") and the users that
    each view now holds, read back from the store. Users of an earlier run that the tables no
    longer hold are gone from the store afterwards. Running it again changes nothing.

    The SQLite store is built beside and renamed into place: a reader sees the old or the new
    store, never a mixture, and a failure leaves the old one. Redis has no such swap: each view of
    a user changes at once, the views shortly after one another (`Definitions.online_views` says
    in which order and why), and after a failure some users are new and some old until the next run.
    """
    tables = {name: _require(Path(features) / f"{name}.parquet") for name in TABLES}
    users = set(pq.read_table(tables["user_profile"], columns=["user_id"])["user_id"].to_pylist())
    with writing(settings), _failures_explained(settings):
        _publish_tables(tables, offline_path(settings))
        definitions = define_features(offline_path(settings))
        if settings.online == "sqlite":
            with atomic_file(online_path(settings)) as beside:
                _write_online(settings, definitions, online=beside)
                counts = _users_in_sqlite(beside, definitions)
        else:
            _write_online(settings, definitions)
            counts = _keep_only_in_redis(settings, users, definitions)
        apply_definitions(settings, definitions)
    for view, count in counts.items():
        if count != len(users):
            raise FeatureStoreError(
                f"online store: {view} holds {count} of {len(users)} users after materialization; "
                "run it again"
            )
    written = {"online": settings.online, **counts}
    write_json(Path(output), written)
    return written


@step("build_training_set")
def build_training_set(settings: FeatureStoreSettings, *, events: Path, features: Path, output: Path) -> None:
    """Write the training set: every event with what was known just before it.

    Feast's point-in-time join decides which row of a user's past an event gets. A user without a
    past gets zeros and an empty history. Columns as in
    docs/architecture.md, ordered by event_timestamp and event_id. A FeatureStoreError names the
    counts when the join does not answer with exactly the events that it was asked about.
    """
    features = Path(features)
    for name in (*TABLES, "items", "splits"):
        _require(features / f"{name}.parquet")
    asked = pq.read_table(_require(Path(events)), columns=["event_id", "user_id", "item_id", "timestamp"])
    asked = asked.rename_columns(["event_id", "user_id", "item_id", "event_timestamp"])
    with _failures_explained(settings):
        joined = join_features(settings, asked, features)
        require_same_events(asked, joined)
        spec = read_json(features / "spec.json")
        with quiet_engine() as engine:
            rows = expressions.training_set(
                ibis.memtable(joined),
                events=engine.read_parquet(events),
                items=engine.read_parquet(features / "items.parquet"),
                splits=engine.read_parquet(features / "splits.parquet"),
                activity=engine.read_parquet(features / "user_activity.parquet"),
                liked_threshold=spec["liked_threshold"],
                num_attributes=len(spec["attribute_cardinalities"]),
            )
            with atomic_file(Path(output)) as beside:
                engine.to_parquet(rows, beside)
                require_same_events(asked, pq.read_table(beside, columns=["event_id"]))


def require_same_events(asked: pa.Table, answered: pa.Table) -> None:
    """A FeatureStoreError unless both tables hold the same event_ids, each as often."""
    same = asked["event_id"].sort().equals(answered["event_id"].cast(pa.string()).sort())
    if not same:
        raise FeatureStoreError(
            f"the training set has {answered.num_rows} rows for {asked.num_rows} events, "
            f"{pc.count_distinct(answered['event_id']).as_py()} of them distinct; every event must come back "
            "once: look for an event_id, or a user and timestamp in a feature table, that occurs twice"
        )


def apply_definitions(settings: FeatureStoreSettings, definitions: Definitions) -> None:
    """Register the project's objects; a reader sees the old registry or the new one."""
    with atomic_file(registry_path(settings)) as beside:
        beside.unlink()  # Feast takes an empty file for a damaged registry
        _apply(repo_config(settings, registry=beside), definitions)


def _apply(config: RepoConfig, definitions: Definitions) -> FeatureStore:
    store = FeatureStore(config=config)
    store.apply(definitions.objects())
    return store


def _write_online(
    settings: FeatureStoreSettings, definitions: Definitions, *, online: Path | None = None
) -> None:
    """Materialize the online views, with a registry that is thrown away."""
    with tempfile.TemporaryDirectory(prefix="leanrec-registry-") as scratch, quiet_engine():
        store = _apply(
            repo_config(settings, registry=Path(scratch) / "registry.db", online=online), definitions
        )
        for view in definitions.online_views:
            store.materialize(*ALWAYS, feature_views=[view.name])


def _publish_tables(tables: dict[str, Path], offline: Path) -> None:
    with atomic_directory(offline) as beside:
        for name, table in tables.items():
            shutil.copyfile(table, beside / f"{name}.parquet")


def _users_in_sqlite(file: Path, definitions: Definitions) -> dict[str, int]:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return {
            view.name: connection.execute(
                f"SELECT COUNT(DISTINCT entity_key) FROM {PROJECT}_{view.name}"  # noqa: S608 - our own names
            ).fetchone()[0]
            for view in definitions.online_views
        }


def _keep_only_in_redis(
    settings: FeatureStoreSettings, users: set[str], definitions: Definitions
) -> dict[str, int]:
    """Take users out of Redis that are not in `users`; how many have each view."""
    client = redis_client(settings)
    kept = {user_key(user) for user in users}
    found = set(user_keys(client))
    vanished = list(found - kept)
    for start in range(0, len(vanished), ROWS_A_WRITE):
        client.delete(*vanished[start : start + ROWS_A_WRITE])
    return {view.name: len(found & kept) for view in definitions.online_views}


def _require(path: Path) -> Path:
    if not path.exists():
        raise DataError(f"{path}: no such file; run the step that writes it first")
    return path


@contextlib.contextmanager
def _failures_explained(settings: FeatureStoreSettings) -> Iterator[None]:
    """Turn the faults of Redis, SQLite, DuckDB and the disk into one sentence each."""
    try:
        yield
    except RedisError as error:
        raise redis_failed(settings, error) from None
    except (sqlite3.Error, OSError, duckdb.Error, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise FeatureStoreError(
            f"feature_store.repository {settings.repository}: Feast could not read or write its tables "
            f"({reason}); mend the disk's free space or rights and run the step again"
        ) from error
