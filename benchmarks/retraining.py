"""A warm start beside a full training on the same events: what it gives up, and what it saves.

The first 80 % of the events are what a release was trained on, the next 10 % come in as feedback, and
the last 10 % are what both are judged on.
"""

from __future__ import annotations

import resource
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from leanrec.config import FeatureSettings, FeatureStoreSettings, RunSettings, TrainingSettings
from leanrec.data.ingest import ingest
from leanrec.data.pseudonyms import load_key
from leanrec.evaluation.bootstrap import bootstrap_difference
from leanrec.evaluation.evaluate import answer
from leanrec.evaluation.protocol import load_protocol, ndcg_per_user
from leanrec.features.build import build_features
from leanrec.features.store import build_training_set
from leanrec.files import read_json
from leanrec.models.recommender import load_model
from leanrec.training.train import train_models
from leanrec.training.warm_start import SUMS_FILE, WEIGHTS_FOLDER

RELEASED, HELD_OUT = 0.8, 0.1
VALID = 0.05


def measure(_repository: Path, run: Path) -> dict[str, Any]:
    """CPU seconds of a full training over those of a warm one, and the NDCG@10 of both."""
    settings = RunSettings.parse(read_json(Path(run) / "settings.json"))
    with tempfile.TemporaryDirectory(prefix="leanrec-retraining-") as name:
        folder = Path(name)
        tables = {table: folder / f"{table}.parquet" for table in ("events", "items", "users")}
        ingest(settings.data, key=load_key(), **tables)
        release = _release(settings, tables, folder)
        known = _known(settings, tables, folder / "next", release / "vocabulary", HELD_OUT)
        protocol = load_protocol(known["features"], known["training_set"])
        warm = _train(settings.training, known, folder / "warm", release)
        full = _train(settings.training, known, folder / "full")
        (release / WEIGHTS_FOLDER / SUMS_FILE).unlink()
        fresh = _train(settings.training, known, folder / "fresh", release)
        ndcg = {
            form: ndcg_per_user(answer(load_model(folder / form), protocol).chain, protocol)
            for form in ("full", "warm", "fresh")
        }
    loss = bootstrap_difference(ndcg["full"], ndcg["warm"])
    return {
        "name": "retraining",
        "ours": warm,
        "baseline": full,
        "ratio": full / warm,
        "unit": "CPU s",
        "settings": {
            "warm_epochs": settings.training.warm_epochs,
            "num_processes": settings.training.num_processes,
            "ndcg@10": {form: float(values.mean()) for form, values in ndcg.items()},
            "full_less_warm": [loss.value, loss.low, loss.high],
            "seconds_without_optimizer_state": fresh,
            "num_users": len(protocol.relevant),
        },
    }


def _release(settings: RunSettings, tables: dict[str, Path], folder: Path) -> Path:
    """A `release` folder, trained on the first 80 % of the events."""
    events = pq.read_table(tables["events"])  # sorted by time
    early = folder / "early.parquet"
    pq.write_table(events.slice(0, int(len(events) * RELEASED)), early)
    known = _known(settings, {**tables, "events": early}, folder / "released", None, VALID)
    release = folder / "release"
    _train(settings.training, known, release / WEIGHTS_FOLDER)
    shutil.copytree(known["features"] / "vocabulary", release / "vocabulary")
    return release


def _known(
    settings: RunSettings, tables: dict[str, Path], folder: Path, vocabulary: Path | None, held_out: float
) -> dict[str, Path]:
    """Features and training set, split by time."""
    split = {"split_by": "time", "valid_fraction": VALID, "test_fraction": held_out}
    features, training_set = folder / "features", folder / "training_set.parquet"
    build_features(
        FeatureSettings(**{**settings.features.model_dump(), **split}),
        settings.data,
        **tables,
        previous_vocabulary=vocabulary,
        output=features,
    )
    build_training_set(
        FeatureStoreSettings(repository=str(folder / "store")),
        events=tables["events"],
        features=features,
        output=training_set,
    )
    return {"features": features, "training_set": training_set}


def _train(
    settings: TrainingSettings, known: dict[str, Path], output: Path, release: Path | None = None
) -> float:
    """CPU seconds that the training processes take, which a busy machine changes less than the clock's."""
    before = _cpu_seconds()
    train_models(settings, **known, output=output, warm_start=release)
    return _cpu_seconds() - before


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
