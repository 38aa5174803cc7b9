"""Held against each other: rows that later events were pushed to, and rows materialized of all events."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from online_parity import model_spec
from small_world import LIKED, build, event, some_events

from leanrec.config import FeatureSettings, FeatureStoreSettings
from leanrec.features.online import OnlineUsers, stack_user_rows
from leanrec.features.push import OnlineUsersWriter, Rating
from leanrec.features.store import materialize_features

FEATURES = FeatureSettings(history_length=3, liked_threshold=LIKED)


def assert_pushed_rows_are_materialized_rows(settings: FeatureStoreSettings, folder: Path) -> None:
    """Push what everybody did later, in three calls; then let the pipeline see all of it."""
    early = some_events()
    items = ("a", "never seen", "b", "a")
    later = [
        event(9000 + 10 * n + user, f"u{user}", items[(n + user) % 4], 10_000 + 10 * n + user, 0.5 + n % 5)
        for n in range(9)
        for user in range(5)  # u5 does nothing more
    ]
    before = build(folder / "early", early)
    materialize_features(settings, features=before["features"], output=folder / "counts.json")
    index = {"a": 1, "b": 2, "c": 3, "d": 4, "never seen": 5}
    writer = OnlineUsersWriter(settings, FEATURES)
    for part in (later[:5], later[5:6], later[6:]):
        ratings: dict[str, list[Rating]] = {}
        for e in part:
            new = Rating(item_index=index[e.item_id], rating=e.rating, timestamp=e.timestamp)
            ratings.setdefault(e.user_id, []).append(new)
        writer.push(ratings)
    users = [f"u{n}" for n in range(6)]
    pushed = OnlineUsers(settings).rows(users)
    after = build(folder / "all", early + later)
    materialize_features(settings, features=after["features"], output=folder / "counts.json")
    materialized = OnlineUsers(settings).rows(users)
    spec = model_spec(after["features"])
    ours = stack_user_rows([row for row in pushed if row], spec)
    theirs = stack_user_rows([row for row in materialized if row], spec)
    assert len(ours["history"]) == len(users)
    for name, tensor in theirs.items():
        assert tensor.dtype == ours[name].dtype
        assert np.allclose(tensor, ours[name], rtol=1e-6, atol=0), name
