"""The configured model beside every other one of the zoo, on the run's own data: who lists best?

Each retriever is trained with the configured ranker behind it, and each ranker behind the configured
retriever, with the settings that its name brings along. The split `valid` says which one would be chosen,
the split `test` how good it is. `--only als --only dlrm` trains those alone, beside the configured one.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from benchmarks.only import those
from leanrec.config import RunSettings, TrainingSettings
from leanrec.config.zoo import RANKERS, RETRIEVERS
from leanrec.data.ingest import ingest
from leanrec.data.pseudonyms import load_key
from leanrec.evaluation.bootstrap import bootstrap_difference
from leanrec.evaluation.evaluate import answer
from leanrec.evaluation.protocol import HEADLINE_K, load_protocol, ndcg_per_user
from leanrec.features.build import build_features
from leanrec.features.store import build_training_set
from leanrec.files import read_json
from leanrec.models.recommender import load_model
from leanrec.training.train import train_models

FIGURE = f"ndcg@{HEADLINE_K}"
Part = Literal["retriever", "ranker"]


def measure(_repository: Path, run: Path, only: Sequence[str] = ()) -> dict[str, Any]:
    """NDCG@10 on `test` of the configured model, and of the best other one on `valid`.

    `only`: names of the models to put in its place; none: all.
    """
    settings = RunSettings.parse(read_json(Path(run) / "settings.json"))
    chosen = others(settings.training, only)
    with tempfile.TemporaryDirectory(prefix="leanrec-zoo-") as name:
        folder = Path(name)
        data = _data(settings, folder)
        protocols = {split: load_protocol(**data, split=split) for split in ("valid", "test")}

        def judge(training: TrainingSettings) -> dict[str, Any]:
            began = time.perf_counter()
            with contextlib.redirect_stdout(sys.stderr):  # the figures alone go to standard output
                train_models(training, **data, output=folder / "model")
            seconds = time.perf_counter() - began
            model = load_model(folder / "model")
            return {"seconds": seconds} | {
                split: ndcg_per_user(answer(model, protocol).chain, protocol)
                for split, protocol in protocols.items()
            }

        ours = judge(settings.training)
        _tell(f"configured: valid {ours['valid'].mean():.4f}, test {ours['test'].mean():.4f}")
        rows = []
        for part, model in chosen:
            theirs = judge(with_model(settings.training, part, model))
            rows.append({"part": part, "model": model} | _beside(theirs, ours))
            _tell(json.dumps(rows[-1]))
    best = max(rows, key=lambda row: row["valid"])
    return {
        "name": "zoo",
        "ours": float(ours["test"].mean()),
        "baseline": best["test"],
        "ratio": float(ours["test"].mean()) / best["test"],
        "unit": FIGURE,
        "settings": {
            "retriever": settings.training.retriever.model,
            "ranker": settings.training.ranker.model,
            "seed": settings.training.seed,
            "users": len(ours["test"]),
            "best_other": f"{best['part']} {best['model']}",
            "valid": float(ours["valid"].mean()),
            "seconds": round(ours["seconds"], 1),
        },
        "models": rows,
    }


def others(training: TrainingSettings, only: Sequence[str] = ()) -> list[tuple[Part, str]]:
    """Every model that could stand in the place of a configured one, or `only` those.

    Raises a ConfigError for a name that none of them has.
    """
    retrievers: list[tuple[Part, str]] = [("retriever", name) for name in RETRIEVERS]
    rankers: list[tuple[Part, str]] = [("ranker", name) for name in RANKERS]
    configured = {("retriever", training.retriever.model), ("ranker", training.ranker.model)}
    found = [each for each in (*retrievers, *rankers) if each not in configured]
    chosen = those([model for _, model in found], only)
    return [each for each in found if each[1] in chosen]


def with_model(training: TrainingSettings, part: Part, model: str) -> TrainingSettings:
    """The settings with another model, which has the defaults of its own and not what suited the other."""
    values = training.model_dump(exclude={part})
    return TrainingSettings.parse({**values, part: {"model": model}})


def _tell(what: str) -> None:
    """A row as soon as it is known: a whole table takes hours."""
    print(f"zoo: {what}", file=sys.stderr, flush=True)


def _data(settings: RunSettings, folder: Path) -> dict[str, Path]:
    """The features and the training set of the run's own data."""
    tables = {table: folder / f"{table}.parquet" for table in ("events", "items", "users")}
    ingest(settings.data, key=load_key(), **tables)
    features = folder / "features"
    build_features(settings.features, settings.data, **tables, previous_vocabulary=None, output=features)
    store = settings.feature_store.model_copy(update={"repository": str(folder / "store")})
    build_training_set(
        store, events=tables["events"], features=features, output=folder / "training_set.parquet"
    )
    return {"features": features, "training_set": folder / "training_set.parquet"}


def _beside(theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """Their figures, and what ours has more on `test`, with the interval of users drawn again."""
    return {
        "valid": float(theirs["valid"].mean()),
        "test": float(theirs["test"].mean()),
        "ours_more": asdict(bootstrap_difference(ours["test"], theirs["test"])),
        "seconds": round(theirs["seconds"], 1),
    }
