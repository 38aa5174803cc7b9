"""Small canonical tables, and what is known of the past computed the slow, plain way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from leanrec.config import DataSettings, FeatureSettings
from leanrec.features.build import build_features
from leanrec.schema import EVENTS, ITEMS, users_schema

START = datetime(2026, 1, 1, tzinfo=UTC)
LIKED = 4.0
ATTRIBUTES = ("group",)
DATA = DataSettings(source="csv", events="e", items="i", user_attributes=ATTRIBUTES)
ITEM_IDS = ("a", "b", "c", "d", "never seen")


class Event(NamedTuple):
    event_id: str
    user_id: str
    item_id: str
    timestamp: datetime
    rating: float


def event(number: int, user: str, item: str, microseconds: int, rating: float = 5.0) -> Event:
    return Event(f"e{number:04d}", user, item, START + timedelta(microseconds=microseconds), rating)


def some_events(num_users: int = 6, num_events: int = 12) -> list[Event]:
    """Every user with events at distinct times and in ties, liked and not."""
    return [
        event(u * 100 + n, f"u{u}", ITEM_IDS[(u + n * n) % 4], (n // 2) * 10 + u, 1 + (u + n) % 5)
        for u in range(num_users)
        for n in range(num_events + u)
    ]


def write_tables(
    folder: Path,
    events: list[Event],
    items: tuple[str, ...] = ITEM_IDS,
    attributes: tuple[str, ...] = ATTRIBUTES,
) -> dict[str, Path]:
    """Write events, items and users as ingest does; the paths as `build_features` takes them."""
    folder.mkdir(parents=True, exist_ok=True)
    users = sorted({e.user_id for e in events})
    tables = {
        "events": pa.Table.from_pylist([e._asdict() for e in events], schema=EVENTS),
        "items": pa.Table.from_pylist(
            [
                {"item_id": i, "title": i.upper(), "categories": ["odd", i][: n % 3], "release_year": None}
                for n, i in enumerate(items)
            ],
            schema=ITEMS,
        ),
        "users": pa.Table.from_pylist(
            [{"user_id": u, **dict.fromkeys(attributes, f"g{n % 2}")} for n, u in enumerate(users)],
            schema=users_schema(attributes),
        ),
    }
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet")
    return {name: folder / f"{name}.parquet" for name in tables}


def build(
    folder: Path,
    events: list[Event],
    *,
    items: tuple[str, ...] = ITEM_IDS,
    data: DataSettings = DATA,
    **settings: Any,
) -> dict[str, Path]:
    """Write the tables and their features below `folder`; the paths of both."""
    paths = write_tables(folder, events, items, data.user_attributes)
    build_features(
        FeatureSettings(**{"history_length": 3, "liked_threshold": LIKED, **settings}),
        data,
        **paths,
        previous_vocabulary=None,
        output=folder / "features",
    )
    return {**paths, "features": folder / "features"}


def rows_of(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def past(events: list[Event], key: str, value: str, before: datetime) -> list[Event]:
    """The events of one user or item before a moment, oldest first."""
    chosen = [e for e in events if getattr(e, key) == value and e.timestamp < before]
    return sorted(chosen, key=lambda e: (e.timestamp, e.event_id))


def statistics(events: list[Event]) -> tuple[int, int, float]:
    """num_events, num_liked, mean_rating."""
    ratings = [e.rating for e in events]
    return len(ratings), sum(r >= LIKED for r in ratings), sum(ratings) / len(ratings) if ratings else 0.0
