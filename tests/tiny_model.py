"""A small recommender with the features and training set it belongs to, made without training."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from leanrec.config import RankerSettings, RetrieverSettings, TrainingSettings
from leanrec.files import write_json
from leanrec.models.inputs import read_item_inputs
from leanrec.models.recommender import Recommender, save_model
from leanrec.schema import ModelSpec

NUM_USERS, NUM_ITEMS, HISTORY, EVENTS_A_USER = 30, 60, 6, 15
DATA_SPEC = {
    "num_users": NUM_USERS + 1,
    "num_items": NUM_ITEMS,
    "num_categories": 5,
    "attribute_cardinalities": {"taste": 3},
    "history_length": HISTORY,
    "liked_threshold": 4.0,
}
SETTINGS = TrainingSettings(
    num_candidates=30,
    top_k=12,
    retriever=RetrieverSettings(dim=16, hidden=(32,)),
    ranker=RankerSettings(dim=16, hidden=(32, 16)),
)


class TinyModel(NamedTuple):
    model: Path
    features: Path
    training_set: Path


def make_tiny_model(folder: Path) -> TinyModel:
    """Write the artifacts of an untrained model into `folder`."""
    paths = TinyModel(folder / "model", folder / "features", folder / "training_set.parquet")
    paths.features.mkdir(parents=True)
    write_json(paths.features / "spec.json", DATA_SPEC)
    items = [
        {
            "item_index": i,
            "item_id": f"i{i}",
            "title": f"Item {i}",
            "categories": ["a"],
            "category_indices": [1 + i % 4],
            "release_year": 1980 + i % 20,
            "num_events": i,
            "num_liked": i // 2,
            "mean_rating": 3.5,
        }
        for i in range(NUM_ITEMS)
    ]
    pq.write_table(pa.Table.from_pylist(items), paths.features / "items.parquet")
    pq.write_table(pa.Table.from_pylist(_events()), paths.training_set)
    torch.manual_seed(3)
    spec = ModelSpec(top_k=SETTINGS.top_k, **DATA_SPEC)
    recommender = Recommender(spec, SETTINGS, read_item_inputs(paths.features / "items.parquet"))
    save_model(recommender, paths.model)
    return paths


def _events() -> list[dict]:
    random = np.random.default_rng(0)
    start = datetime(2024, 1, 1, tzinfo=UTC)
    rows = []
    for user in range(NUM_USERS):
        past: list[tuple[int, float]] = []
        items = random.choice(np.arange(1, NUM_ITEMS), EVENTS_A_USER, replace=False).tolist()
        for place, item in enumerate(items):
            rating = float(random.integers(2, 6))
            rows.append(
                {
                    "event_id": f"{user:03d}-{place:03d}",
                    "user_id": f"u{user}",
                    "item_id": f"i{item}",
                    "item_index": item,
                    "event_timestamp": start + timedelta(hours=place, minutes=user),
                    "rating": rating,
                    "liked": rating >= 4,
                    "split": "train" if place < 9 else "valid" if place < 12 else "test",
                    "user_index": user + 1,
                    "user_attributes": [1 + user % 2],
                    "user_statistics": [float(place), float(sum(r >= 4 for _, r in past)), 3.5],
                    "history": [i for i, _ in past][-HISTORY:],
                    "history_ratings": [r for _, r in past][-HISTORY:],
                }
            )
            past.append((item, rating))
    return rows
