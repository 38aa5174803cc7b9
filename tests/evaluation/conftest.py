"""A small world whose events, features and training set are written as the architecture says."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leanrec.files import write_json

HISTORY_LENGTH = 6
NUM_ITEMS = 31
LIKED = 4.0


@dataclass(frozen=True)
class World:
    features: Path
    training_set: Path
    rows: list[dict]
    """The training set's rows, in the order of the file."""


def make_rows(num_users: int, events_per_user: int, seed: int = 0) -> list[dict]:
    """Events in which users of one taste group prefer the items of that group."""
    generator = np.random.default_rng(seed)
    start = datetime(2024, 1, 1, tzinfo=UTC)
    rows = []
    for user in range(num_users):
        favourites = np.arange(1, NUM_ITEMS) % 3 == user % 3
        weights = np.where(favourites, 4.0, 1.0)
        items = generator.choice(
            np.arange(1, NUM_ITEMS), size=events_per_user, replace=False, p=weights / weights.sum()
        )
        past: list[tuple[int, float]] = []
        for place, item in enumerate(items.tolist()):
            rating = float(generator.integers(4, 6) if favourites[item - 1] else generator.integers(1, 5))
            ratings = [value for _, value in past]
            share = place / events_per_user
            rows.append(
                {
                    "event_id": f"{user:03d}-{place:03d}",
                    "user_id": f"u{user:03d}",
                    "item_id": f"i{item}",
                    "item_index": item,
                    "event_timestamp": start + timedelta(hours=place, minutes=user),
                    "rating": rating,
                    "liked": rating >= LIKED,
                    "split": "train" if share < 0.6 else "valid" if share < 0.8 else "test",
                    "user_index": user + 1,
                    "user_attributes": [1 + user % 2],
                    "user_statistics": [
                        float(place),
                        float(sum(value >= LIKED for value in ratings)),
                        float(np.mean(ratings)) if ratings else 0.0,
                    ],
                    "history": [i for i, _ in past][-HISTORY_LENGTH:],
                    "history_ratings": ratings[-HISTORY_LENGTH:],
                }
            )
            past.append((item, rating))
    generator.shuffle(rows)
    return rows


def _write_world(folder: Path, rows: list[dict]) -> World:
    features = folder / "features"
    features.mkdir(parents=True)
    write_json(
        features / "spec.json",
        {
            "num_users": 1 + len({row["user_id"] for row in rows}),
            "num_items": NUM_ITEMS,
            "num_categories": 4,
            "attribute_cardinalities": {"taste": 3},
            "history_length": HISTORY_LENGTH,
            "liked_threshold": LIKED,
        },
    )
    training_set = folder / "training_set.parquet"
    pq.write_table(pa.Table.from_pylist(rows), training_set, row_group_size=97)
    return World(features=features, training_set=training_set, rows=rows)


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    return _write_world(tmp_path_factory.mktemp("world"), make_rows(num_users=40, events_per_user=15))


@pytest.fixture
def write_world():
    return _write_world
