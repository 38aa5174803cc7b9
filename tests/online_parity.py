"""Held against each other: the row served online and the row that training would see now."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from small_world import Event, past, write_tables

from leanrec.config import FeatureStoreSettings
from leanrec.features.online import OnlineUsers, stack_user_rows
from leanrec.features.rows import stack_table
from leanrec.features.store import build_training_set
from leanrec.files import read_json
from leanrec.schema import ModelSpec


def model_spec(features: Path) -> ModelSpec:
    return ModelSpec(**read_json(features / "spec.json"), top_k=5)


def assert_online_rows_are_the_latest_offline_rows(
    settings: FeatureStoreSettings, world: dict[str, Path], events: list[Event], folder: Path
) -> None:
    """Ask the training set for an event of every user after all others, and the online store for the user."""
    latest = max(e.timestamp for e in events) + timedelta(microseconds=1)
    users = sorted({e.user_id for e in events})
    probes = [Event(f"probe {user}", user, "a", latest, 5.0) for user in users]
    training_set = folder / "probes.parquet"
    build_training_set(
        settings,
        events=write_tables(folder / "probes", probes)["events"],
        features=world["features"],
        output=training_set,
    )
    spec = model_spec(world["features"])
    offline = stack_table(pq.read_table(training_set).sort_by("user_id"), spec)
    rows = OnlineUsers(settings).rows(users)
    online = stack_user_rows([row for row in rows if row is not None], spec)
    assert len(offline["history"]) == len(users)
    for name, tensor in offline.items():
        assert tensor.dtype == online[name].dtype
        assert np.array_equal(tensor, online[name]), name
    index = {
        r["item_id"]: r["item_index"] for r in pq.read_table(world["features"] / "items.parquet").to_pylist()
    }
    for user, seen in zip(users, online["seen"], strict=True):
        watched = {index[e.item_id] for e in past(events, "user_id", user, latest)}
        assert set(seen.tolist()) - {0} == watched
