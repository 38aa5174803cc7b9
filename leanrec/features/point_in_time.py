"""Feast's point-in-time join, slice of time by slice of time.

Feast's duckdb store joins every event with every earlier row of its user and of its item and
keeps the newest: its work grows with the square of a key's events. So the events are put to it
in slices, in order of time. For each slice the tables hold, of every key, the newest row from
before the slice and all rows within it; no other row can be the newest at any moment of the
slice, so the answer is the same. Feast alone decides which row an event gets.
"""

from __future__ import annotations

import tempfile
from datetime import datetime
from pathlib import Path

import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore
from feast.feature_view_projection import FeatureViewProjection
from ibis.backends.duckdb import Backend

from leanrec.config import FeatureStoreSettings
from leanrec.features.definitions import define_features
from leanrec.features.project import quiet_engine, repo_config

EVENTS_A_SLICE = 25_000
"""Events put to Feast at a time."""


def join_features(
    settings: FeatureStoreSettings, events: pa.Table, tables: Path, *, events_a_slice: int = EVENTS_A_SLICE
) -> pa.Table:
    """Each event with the features of the service `ranking_training` at its own timestamp.

    `events` has event_id, user_id, item_id, event_timestamp; `tables` is the features folder.
    The answer has these columns and, for each feature, `<view>__<feature>`, null where there was
    no row yet. Nothing is written outside a temporary folder.
    """
    ordered = events.sort_by([("event_timestamp", "ascending"), ("event_id", "ascending")])
    with tempfile.TemporaryDirectory(prefix="leanrec-join-") as folder, quiet_engine() as engine:
        scratch = Path(folder)
        definitions = define_features(scratch)
        service = definitions.ranking_training
        sources = [_read(engine, Path(tables), view) for view in service.feature_view_projections]
        store = FeatureStore(
            config=repo_config(settings, registry=scratch / "registry.db", online=scratch / "online.db")
        )
        store.apply(definitions.objects())
        answers = []
        for start in range(0, ordered.num_rows, events_a_slice):
            part = ordered.slice(start, events_a_slice)
            bounds = pc.min_max(part["event_timestamp"]).as_py()
            for name, table in sources:
                engine.to_parquet(_rows_needed(table, **bounds), scratch / f"{name}.parquet")
            job = store.get_historical_features(part.to_pandas(), service, full_feature_names=True)
            answers.append(job.to_arrow())
    return pa.concat_tables(answers)


def _read(engine: Backend, tables: Path, view: FeatureViewProjection) -> tuple[str, ir.Table]:
    """The view's table: its key, event_timestamp, and the features that the service asks for."""
    key = "item_id" if view.name == "item_statistics" else "user_id"
    table = engine.read_parquet(tables / f"{view.name}.parquet")
    return view.name, table.select(key, "event_timestamp", *(feature.name for feature in view.features))


def _rows_needed(table: ir.Table, min: datetime, max: datetime) -> ir.Table:
    """The newest row of each key at `min`, and the rows after it up to `max`."""
    key, *columns = table.columns
    moment = table["event_timestamp"]
    at_start = table.filter(moment <= min).group_by(key)
    newest = at_start.agg(**{column: table[column].argmax(moment) for column in columns})
    return newest.union(table.filter((moment > min) & (moment <= max)))
