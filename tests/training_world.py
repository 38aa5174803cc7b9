"""A tiny features folder and training set in which some users like even items and the others odd ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from leanrec.config import RankerSettings, RetrieverSettings, TrainingSettings
from leanrec.files import write_json

NUM_USERS = 40
NUM_ITEMS = 31
HISTORY = 8
EVENTS_A_USER = 20

SMALL = TrainingSettings(
    num_candidates=20,
    top_k=5,
    num_processes=1,
    retriever=RetrieverSettings(dim=8, hidden=(16,), epochs=3, batch_size=128, table_learning_rate=0.1),
    ranker=RankerSettings(
        dim=8, hidden=(16,), epochs=4, batch_size=32, patience=5, learning_rate=0.01, table_learning_rate=0.1
    ),
)


def training_table(seed: int = 1) -> pa.Table:
    """Each user's events in order of time, with what was known before each."""
    draw = np.random.default_rng(seed)
    start = datetime(2024, 1, 1, tzinfo=UTC)
    rows = []
    for user in range(1, NUM_USERS + 1):
        items = draw.permutation(np.arange(1, NUM_ITEMS))
        taste = items[items % 2 == user % 2][:12]
        items = draw.permutation(np.concatenate([taste, items[items % 2 != user % 2][: EVENTS_A_USER - 12]]))
        ratings = np.where(items % 2 == user % 2, 5.0, 2.0)
        for i, (item, rating) in enumerate(zip(items.tolist(), ratings.tolist(), strict=True)):
            past, past_ratings = items[:i].tolist(), ratings[:i].tolist()
            liked = sum(value >= 4 for value in past_ratings)
            rows.append(
                {
                    "event_id": f"{user}-{i}",
                    "user_id": f"u{user}",
                    "item_id": f"i{item}",
                    "event_timestamp": start + timedelta(minutes=i * 100 + user),
                    "user_index": user,
                    "user_attributes": [1 + user % 2],
                    "user_statistics": [float(i), float(liked), float(np.mean(past_ratings)) if i else 0.0],
                    "history": past[-HISTORY:],
                    "history_ratings": past_ratings[-HISTORY:],
                    "item_index": item,
                    "rating": rating,
                    "liked": rating >= 4,
                    "split": "train" if i < 14 else "valid" if i < 17 else "test",
                }
            )
    return pa.Table.from_pylist(rows, schema=SCHEMA)


SCHEMA = pa.schema(
    [
        pa.field("event_id", pa.string()),
        pa.field("user_id", pa.string()),
        pa.field("item_id", pa.string()),
        pa.field("event_timestamp", pa.timestamp("us", tz="UTC")),
        pa.field("user_index", pa.int64()),
        pa.field("user_attributes", pa.list_(pa.int64())),
        pa.field("user_statistics", pa.list_(pa.float32())),
        pa.field("history", pa.list_(pa.int64())),
        pa.field("history_ratings", pa.list_(pa.float32())),
        pa.field("item_index", pa.int64()),
        pa.field("rating", pa.float32()),
        pa.field("liked", pa.bool_()),
        pa.field("split", pa.string()),
    ]
)


def write_world(folder: Path, table: pa.Table | None = None) -> tuple[Path, Path]:
    """Write `features` and `training_set.parquet` into `folder`; answers both paths."""
    features, training_set = folder / "features", folder / "training_set.parquet"
    features.mkdir(parents=True, exist_ok=True)
    pq.write_table(training_table() if table is None else table, training_set)
    index = list(range(NUM_ITEMS))
    pq.write_table(
        pa.table(
            {
                "item_index": index,
                "category_indices": pa.array([[1 + i % 3] if i else [] for i in index], pa.list_(pa.int64())),
                "release_year": pa.array([None if i % 7 == 0 else 1960 + i for i in index], pa.int32()),
                "num_events": list(index),
                "num_liked": [i // 2 for i in index],
                "mean_rating": pa.array([3.0] * NUM_ITEMS, pa.float32()),
            }
        ),
        features / "items.parquet",
    )
    spec = {
        "num_users": NUM_USERS + 1,
        "num_items": NUM_ITEMS,
        "num_categories": 4,
        "attribute_cardinalities": {"group": 3},
        "history_length": HISTORY,
        "liked_threshold": 4.0,
    }
    write_json(features / "spec.json", spec)
    return features, training_set
