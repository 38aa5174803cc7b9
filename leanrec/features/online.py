"""Look user rows up in Feast's online store: SQLite on one machine, Redis in a cluster."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
from feast.infra.key_encoding_utils import serialize_entity_key, serialize_entity_key_prefix
from feast.infra.online_stores.helpers import get_online_store_from_config
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from redis import Redis, RedisError

from leanrec.config import FeatureStoreSettings
from leanrec.errors import FeatureStoreError
from leanrec.features.definitions import PROJECT, USER_KEY, define_features
from leanrec.features.project import ENTITY_KEY_VERSION, offline_path, online_path, repo_config
from leanrec.features.rows import UserRow, stack_user_rows, unknown_user
from leanrec.schema import USER_STATISTICS

__all__ = ["OnlineUsers", "UserRow", "stack_user_rows", "unknown_user"]

Features = dict[str, Value]
"""The values of one feature view of one user, as Feast stores them."""


class OnlineUsers:
    """The users of the newest materialization, by pseudonym; safe to share between threads.

    Reads Feast's online store without its registry: a look-up costs a fraction of a millisecond.
    With SQLite it notices when a materialization has put a new file in the old one's place.
    """

    def __init__(self, settings: FeatureStoreSettings) -> None:
        self._settings = settings
        self._config = repo_config(settings)
        definitions = define_features(offline_path(settings))
        self._profile = definitions.user_profile
        self._activity = definitions.user_activity
        self._seen = definitions.user_seen
        self._lock = threading.Lock()
        self._store: OnlineStore | None = None
        self._file: tuple[int, int] | None = None
        self._holds_users = False

    def row(self, user_pseudonym: str) -> UserRow | None:
        """The user's row; None when nothing is stored of the user."""
        return self.rows([user_pseudonym])[0]

    def rows(self, user_pseudonyms: Sequence[str]) -> list[UserRow | None]:
        """The rows of several users, in one look-up, in the order asked for.

        A FeatureStoreError says when the store does not answer or was never filled.
        """
        if not user_pseudonyms:
            return []
        keys = [_entity_key(user) for user in user_pseudonyms]
        try:
            store = self._current_store()
            # Seen items last: see Definitions.online_views for why.
            profiles = store.online_read(self._config, self._profile, keys)
            activities = store.online_read(self._config, self._activity, keys)
            seen = store.online_read(self._config, self._seen, keys)
            rows = [
                _user_row(profile, activity, items)
                for (_, profile), (_, activity), (_, items) in zip(profiles, activities, seen, strict=True)
            ]
            if not (self._holds_users or any(rows)):
                self._require_users()
        except sqlite3.Error as error:
            raise self._not_materialized(str(error)) from None
        except RedisError as error:
            raise redis_failed(self._settings, error) from None
        return rows

    def _current_store(self) -> OnlineStore:
        file = None
        if self._settings.online == "sqlite":
            try:
                status = online_path(self._settings).stat()
            except FileNotFoundError:
                raise self._not_materialized("there is no such file") from None
            file = (status.st_dev, status.st_ino)
        with self._lock:
            if self._store is None or file != self._file:
                self._store = get_online_store_from_config(self._config.online_store)
                self._file = file
                self._holds_users = False
            return self._store

    def _require_users(self) -> None:
        """Nobody was found: an error unless the store holds somebody else."""
        if self._settings.online == "redis":
            found = next(user_keys(redis_client(self._settings)), None)
        else:
            table = f"{PROJECT}_{self._profile.name}"
            with closing(sqlite3.connect(f"file:{online_path(self._settings)}?mode=ro", uri=True)) as file:
                found = file.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone()  # noqa: S608
        if found is None:
            raise self._not_materialized("it is empty")
        self._holds_users = True

    def _not_materialized(self, why: str) -> FeatureStoreError:
        place = self._settings.redis if self._settings.online == "redis" else online_path(self._settings)
        return FeatureStoreError(
            f"online store {place}: no user rows to read ({why}); materialize the features first, "
            "with `leanrec run` or `leanrec features`"
        )


def redis_failed(settings: FeatureStoreSettings, error: RedisError) -> FeatureStoreError:
    """The sentence for a Redis that does not answer as it should."""
    return FeatureStoreError(
        f"feature_store.redis {settings.redis}: Redis does not answer ({error}); "
        "start it, correct the address, or set feature_store.online: sqlite"
    )


def redis_client(settings: FeatureStoreSettings) -> Redis:
    """A client of the online store's Redis, made as Feast makes its own."""
    config = repo_config(settings).online_store
    return get_online_store_from_config(config)._get_client(config)  # type: ignore[attr-defined]


def user_keys(client: Redis) -> Iterator[bytes]:
    """The key of every user that this project has in Redis."""
    prefix = serialize_entity_key_prefix([USER_KEY], ENTITY_KEY_VERSION)
    return client.scan_iter(match=prefix + b"*" + PROJECT.encode(), count=1000)


def user_key(user_pseudonym: str) -> bytes:
    """The user's key in Redis."""
    return serialize_entity_key(_entity_key(user_pseudonym), ENTITY_KEY_VERSION) + PROJECT.encode()


def _entity_key(user: str) -> EntityKey:
    return EntityKey(join_keys=[USER_KEY], entity_values=[Value(string_val=user)])


def _user_row(profile: Features | None, activity: Features | None, seen: Features | None) -> UserRow | None:
    if not (profile and activity and seen):
        return None
    # Redis answers with empty values where it has none; half a row is no row.
    if any(_kind(value) is None for value in (profile["user_index"], activity["num_events"], seen["seen"])):
        return None
    return UserRow(
        user_index=profile["user_index"].int64_val,
        user_attributes=_attributes(profile),
        user_statistics=np.array([_number(activity[name]) for name in USER_STATISTICS], np.float32),
        history=np.array(activity["history"].int64_list_val.val, np.int64),
        history_ratings=np.array(activity["history_ratings"].float_list_val.val, np.float32),
        seen=np.array(seen["seen"].int64_list_val.val, np.int64),
    )


def _attributes(profile: Features) -> dict[str, int]:
    names = profile.get("attribute_names")
    if names is None or _kind(names) is None:
        raise FeatureStoreError(
            "online store: its rows do not say which attributes they hold, as an older LeanRec wrote them; "
            "materialize the features again, with `leanrec run` or `leanrec features`"
        )
    return dict(zip(json.loads(names.string_val), profile["user_attributes"].int64_list_val.val, strict=True))


def _kind(value: Value) -> str | None:
    return value.WhichOneof("val")


def _number(value: Value) -> float:
    kind = _kind(value)
    return float(getattr(value, kind)) if kind else 0.0
