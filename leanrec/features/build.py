"""Compute what is known of each user's and item's past, and split the events.

The work is in `leanrec/features/expressions.py`; here the tables are brought in, the
vocabularies are extended, and the results are written, all of them or none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend

from leanrec.config import DataSettings, FeatureSettings
from leanrec.data.vocabulary import Vocabularies
from leanrec.errors import DataError, HostError
from leanrec.features import expressions
from leanrec.features.engine import duckdb_engine
from leanrec.files import atomic_directory, write_json
from leanrec.journal import step


@step("build_features")
def build_features(
    settings: FeatureSettings,
    data: DataSettings,
    *,
    events: Path,
    items: Path,
    users: Path,
    previous_vocabulary: Path | None,
    output: Path,
) -> None:
    """Write the `features` folder of docs/architecture.md to `output`, whole or not at all.

    `previous_vocabulary` is the vocabulary folder of the newest release; indices go on from it.
    Raises a DataError when a table cannot be read or the split leaves no event to train on, and a
    HostError when disk or memory do not suffice.
    """
    tables = {
        "events": _read(Path(events), columns=["user_id"]),
        "items": _read(Path(items)),
        "users": _read(Path(users)),
    }
    before = Vocabularies.load(Path(previous_vocabulary)) if previous_vocabulary else Vocabularies()
    vocabularies = before.extend(**tables, user_attributes=data.user_attributes)
    with atomic_directory(Path(output)) as folder, duckdb_engine() as engine:
        try:
            _write_tables(engine, settings, Path(events), tables, vocabularies, data.user_attributes, folder)
        except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
            raise HostError(
                f"{output}: the features cannot be written ({str(error).splitlines()[0]}); "
                "free disk space or memory and run the step again"
            ) from error
        except duckdb.Error as error:
            raise DataError(
                f"{events}: the features cannot be computed ({str(error).splitlines()[0]}); "
                "run ingest_events again"
            ) from error
        vocabularies.save(folder / "vocabulary")
        write_json(folder / "spec.json", _spec(settings, vocabularies, data.user_attributes))


def _write_tables(
    engine: Backend,
    settings: FeatureSettings,
    path: Path,
    tables: dict[str, pa.Table],
    vocabularies: Vocabularies,
    user_attributes: tuple[str, ...],
    folder: Path,
) -> None:
    events = engine.read_parquet(path)
    items = ibis.memtable(tables["items"])
    item_indices = ibis.memtable(vocabularies.items.to_table())
    user_indices = ibis.memtable(vocabularies.users.to_table())
    attributes = ibis.memtable(_attributes(tables["users"], vocabularies, user_attributes))
    categories = ibis.memtable(_categories(tables["items"], vocabularies))
    indexed = engine.create_table(
        "indexed", expressions.index_events(events, user_indices, item_indices, settings)
    )
    splits = engine.create_table("splits", _splits(events, settings))
    _require_training_events(engine, splits, settings, path)
    results = {
        "user_profile": expressions.user_profile(indexed, attributes, user_attributes),
        "user_activity": expressions.user_activity(indexed, settings),
        "user_seen": expressions.user_seen(indexed),
        "item_statistics": expressions.item_statistics(indexed),
        "items": expressions.item_table(item_indices, items, indexed, splits, categories),
        "splits": splits.order_by("event_id"),
    }
    for name, result in results.items():
        engine.to_parquet(result, folder / f"{name}.parquet")


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error}); run ingest_events again") from None


def _splits(events: ir.Table, settings: FeatureSettings) -> ir.Table:
    if settings.split_by == "time":
        return expressions.splits_by_time(events, settings)
    return expressions.splits_by_user(events, settings)


def _require_training_events(
    engine: Backend, splits: ir.Table, settings: FeatureSettings, path: Path
) -> None:
    num_training = engine.execute(splits.filter(splits["split"] == "train").count())
    if num_training == 0:
        raise DataError(
            f"{path}: features.split_by {settings.split_by} leaves no event to train on, as all events lie "
            "too close in time; set features.split_by: user or bring older events"
        )


def _attributes(users: pa.Table, vocabularies: Vocabularies, names: tuple[str, ...]) -> pa.Table:
    """user_id and user_attributes: the index of each attribute's value, in the order of `names`."""
    indices = [vocabularies.attributes[name].index_of(users[name]) for name in names]
    table = np.stack(indices, axis=1) if indices else np.zeros((users.num_rows, 0), np.int64)
    offsets = np.arange(users.num_rows + 1, dtype=np.int32) * table.shape[1]
    return pa.table(
        {"user_id": users["user_id"], "user_attributes": pa.ListArray.from_arrays(offsets, table.ravel())}
    )


def _categories(items: pa.Table, vocabularies: Vocabularies) -> pa.Table:
    """item_id and category_indices, in the order of the item's categories."""
    categories = items["categories"].combine_chunks()
    indices = vocabularies.categories.index_of(categories.flatten())
    offsets = np.concatenate([[0], np.cumsum(categories.value_lengths().to_numpy())]).astype(np.int32)
    return pa.table(
        {"item_id": items["item_id"], "category_indices": pa.ListArray.from_arrays(offsets, indices)}
    )


def _spec(
    settings: FeatureSettings, vocabularies: Vocabularies, user_attributes: tuple[str, ...]
) -> dict[str, Any]:
    """What data and settings fix of `ModelSpec`; training adds top_k."""
    return {
        "num_users": vocabularies.users.cardinality,
        "num_items": vocabularies.items.cardinality,
        "num_categories": vocabularies.categories.cardinality,
        "attribute_cardinalities": {
            name: vocabularies.attributes[name].cardinality for name in user_attributes
        },
        "history_length": settings.history_length,
        "liked_threshold": settings.liked_threshold,
    }
