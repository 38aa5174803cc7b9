"""A working directory with a small made-up data set and a configuration that runs in seconds."""

import csv
from pathlib import Path

import numpy as np
import yaml

NUM_USERS = 60
NUM_ITEMS = 80
EVENTS_A_USER = 24
RAW_USER = "raw-user-"
"""What every raw user id begins with; nothing that a run stores may hold it."""

KINDS = ("drama", "comedy", "crime", "music")

ANY_QUALITY = {
    "max_calibration_error": 1.0,
    "equal_within_ndcg": 1.0,
    "equal_within_auc": 1.0,
    "max_segment_ndcg_loss": 1.0,
    "max_segment_auc_loss": 1.0,
    "max_popularity_lift": 100.0,
    "min_tail_exposure": 0.0,
}
"""Bounds that every model keeps: of forty users chance decides, and each processor rounds in its own way."""


def make_workspace(folder: Path, **changes: dict) -> Path:
    """Write the raw CSV files and `run.yaml` into `folder`; the configuration's path.

    Each user likes one kind of item, so there is something to learn. `changes` go into the
    configuration's sections.
    """
    random = np.random.default_rng(7)
    raw = folder / "raw"
    raw.mkdir(parents=True)
    write_rows(
        raw / "items.csv",
        ("item_id", "title", "categories", "release_year"),
        [(f"i{i}", f"Item {i}", KINDS[i % len(KINDS)], 1990 + i % 30) for i in range(NUM_ITEMS)],
    )
    write_rows(
        raw / "users.csv",
        ("user_id", "group"),
        [(f"{RAW_USER}{u}", "ab"[u % 2]) for u in range(NUM_USERS)],
    )
    write_rows(raw / "events.csv", ("user_id", "item_id", "rating", "timestamp"), list(_events(random)))
    settings = {
        "name": "tiny",
        "data": {
            "source": "csv",
            "events": "raw/events.csv",
            "items": "raw/items.csv",
            "users": "raw/users.csv",
            "user_attributes": ["group"],
        },
        "feature_store": {"repository": "stores/features"},
        "training": {
            "num_processes": 1,
            "num_candidates": 40,
            "top_k": 20,
            "retriever": {"epochs": 3, "dim": 16},
            "ranker": {"epochs": 1, "dim": 8, "hidden": [16]},
        },
        "evaluation": {"ks": [5, 10], "must_beat": [], **ANY_QUALITY},
        "compression": {"recipes": ["fp32", "int8"]},
        "release": {"repository": "stores/models", "num_golden": 16},
    }
    for section, values in changes.items():
        settings[section] = {**settings.get(section, {}), **values}
    config = folder / "run.yaml"
    config.write_text(yaml.safe_dump(settings))
    return config


def _events(random: np.random.Generator):
    for user in range(NUM_USERS):
        start = 1_600_000_000 + int(random.integers(0, 10_000_000))
        weights = np.where(np.arange(NUM_ITEMS) % len(KINDS) == user % len(KINDS), 6.0, 1.0)
        weights = weights / (1 + np.arange(NUM_ITEMS) // len(KINDS))
        items = random.choice(NUM_ITEMS, size=EVENTS_A_USER, replace=False, p=weights / weights.sum())
        for position, item in enumerate(items):
            likes = item % len(KINDS) == user % len(KINDS)
            rating = int(np.clip(random.normal(4.5 if likes else 2.5, 0.7), 1, 5).round())
            yield f"{RAW_USER}{user}", f"i{item}", rating, start + position * 3600


def write_rows(path: Path, header: tuple[str, ...], rows: list[tuple]) -> None:
    """Write a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
