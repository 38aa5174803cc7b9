"""Bring a user's new ratings and clicks online at once, without waiting for the next materialization.

A pushed row is what `build_features` would make of the same events, had they come in the order of their
times: `tests/features/test_push.py` holds the two against each other. Until the next materialization puts
it right, an event that is older than the row's last one stands at the end of the history, and a click
stays in the row that a rating of the same item followed.

Reading, changing and writing a row is no transaction of the store. A push that failed may have been
written all the same, in whole or in part: pushed again, it starts from the row as it was before, so that
nothing counts twice. One process pushes one batch at a time; two that push for the same user within the
same milliseconds may lose one of the changes, again until the next materialization, which reads the event
log.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import FloatList, Int64List, Value
from redis import RedisError

from leanrec.config import FeatureSettings, FeatureStoreSettings
from leanrec.errors import FeatureStoreError
from leanrec.features.definitions import USER_KEY
from leanrec.features.online import Features, OnlineUsers, redis_failed
from leanrec.features.rows import UserRow, unknown_user

Written = tuple[EntityKey, Features, datetime, datetime | None]
"""A row as Feast takes it: whose, the values, the time from which they hold, when they were made."""


@dataclass(frozen=True, kw_only=True)
class Rating:
    """What a user thought of the item with index `item_index`."""

    item_index: int
    rating: float
    timestamp: datetime
    is_implied: bool = False
    """By a click: it counts only while nothing else is known of the user and the item, as in the data."""


class OnlineUsersWriter(OnlineUsers):
    """The users online, and the way to add what they just did; safe to share between threads."""

    def __init__(self, store: FeatureStoreSettings, features: FeatureSettings) -> None:
        super().__init__(store)
        self._features = features
        self._pushing = threading.Lock()
        self._unsure: dict[str, list[UserRow | None]] = {}
        """Of the push that failed last, user -> the row before it, and the rows that the store may hold."""

    def push(self, ratings: Mapping[str, Sequence[Rating]]) -> None:
        """Add each user's ratings (by pseudonym) to the rows online; a user without one gets one.

        A FeatureStoreError says when the store does not take them; some users' rows may be written then, and
        the same ratings, with others or not, may be pushed again.
        """
        with self._pushing:
            users = list(ratings)
            found = dict(zip(users, self.rows(users), strict=True))
            updates = []
            for user in users:
                row = self._row_before(user, found[user])
                new = sorted(ratings[user], key=lambda rating: rating.timestamp)
                after = row_after(row or unknown_user(), new, self._features)
                if after is not row:
                    updates.append((user, row, after, new[-1]))
            self._unsure = {user: [row, found[user], after] for user, row, after, _ in updates}
            try:
                self._write(updates)
                self._unsure = {}
            except sqlite3.Error as error:
                raise FeatureStoreError(
                    f"online store in {self._settings.repository}: a row could not be written ({error}); "
                    "mend the disk's free space or rights: the next materialization makes up for it"
                ) from None
            except RedisError as error:
                raise redis_failed(self._settings, error) from None

    def _row_before(self, user: str, found: UserRow | None) -> UserRow | None:
        """`found`, or the row before a push that failed, where what was found can be that push's work."""
        rows = self._unsure.get(user)
        if rows is None or found is None:
            return found
        known = [row for row in rows if row is not None]
        is_ours = any(_same_activity(found, row) for row in known) and any(
            np.array_equal(found.seen, row.seen) for row in known
        )
        return rows[0] if is_ours else found

    def _write(self, updates: Sequence[tuple[str, UserRow | None, UserRow, Rating]]) -> None:
        """View by view, in the order of `Definitions.online_views`, which says why."""
        if not updates:
            return
        store = self._current_store()
        profiles: list[Written] = []
        seen: list[Written] = []
        activities: list[Written] = []
        for user, before, after, last in updates:
            key = EntityKey(join_keys=[USER_KEY], entity_values=[Value(string_val=user)])
            # As in the offline tables: a row holds from just after its last event.
            time = last.timestamp + timedelta(microseconds=1)
            if before is None:
                profiles.append((key, _profile(after), time, None))
            seen.append((key, {"seen": _indices(after.seen)}, last.timestamp, None))
            activities.append((key, _activity(after), time, None))
        if profiles:
            store.online_write_batch(self._config, self._profile, profiles, None)
        store.online_write_batch(self._config, self._seen, seen, None)
        store.online_write_batch(self._config, self._activity, activities, None)


def row_after(row: UserRow, ratings: Sequence[Rating], settings: FeatureSettings) -> UserRow:
    """`row` with `ratings` (oldest first) behind its history, in its seen items and its statistics."""
    seen = set(row.seen.tolist())
    counted = []
    for rating in ratings:
        if not (rating.is_implied and rating.item_index in seen):
            counted.append(rating)
        seen.add(rating.item_index)
    if not counted:
        return row
    items = np.array([rating.item_index for rating in counted], np.int64)
    values = np.array([rating.rating for rating in counted], np.float32)
    num_events, num_liked, mean_rating = row.user_statistics.astype(np.float64)
    total = mean_rating * num_events + values.sum(dtype=np.float64)
    num_events += len(values)
    num_liked += np.count_nonzero(values >= np.float32(settings.liked_threshold))
    length = settings.history_length
    return replace(
        row,
        user_statistics=np.array([num_events, num_liked, total / num_events], np.float32),
        history=np.concatenate([row.history, items])[-length:],
        history_ratings=np.concatenate([row.history_ratings, values])[-length:],
        seen=np.array(sorted(seen), np.int64),
    )


def _same_activity(one: UserRow, other: UserRow) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("user_statistics", "history", "history_ratings")
    )


def _profile(row: UserRow) -> Features:
    return {
        "user_index": Value(int64_val=row.user_index),
        "user_attributes": _indices(np.array(list(row.user_attributes.values()), np.int64)),
        "attribute_names": Value(string_val=json.dumps(list(row.user_attributes))),
    }


def _activity(row: UserRow) -> Features:
    num_events, num_liked, mean_rating = row.user_statistics.tolist()
    return {
        "history": _indices(row.history),
        "history_ratings": Value(float_list_val=FloatList(val=row.history_ratings.tolist())),
        "num_events": Value(int64_val=int(num_events)),
        "num_liked": Value(int64_val=int(num_liked)),
        "mean_rating": Value(float_val=mean_rating),
    }


def _indices(values: np.ndarray) -> Value:
    return Value(int64_list_val=Int64List(val=values.tolist()))
