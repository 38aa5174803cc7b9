"""The pipeline's steps one at a time, by hand: each reads and writes one work folder.

`leanrec ingest CONFIG`, `leanrec train CONFIG` and the others call the very functions that the
pipeline's components call; only where artifacts lie differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanrec.config import RunSettings
from leanrec.errors import ConfigError
from leanrec.gates import enforce_gate


@dataclass(frozen=True, kw_only=True)
class WorkFolder:
    """Artifacts by name below one folder; one that is missing says which command makes it."""

    path: Path

    def new(self, artifact: str) -> Path:
        """Where `artifact` is to be written."""
        self.path.mkdir(parents=True, exist_ok=True)
        return self.path / artifact

    def made(self, artifact: str) -> Path:
        """Where `artifact` was written; a ConfigError names the command that makes it."""
        path = self.path / artifact
        if not path.exists():
            raise ConfigError(
                f"{self.path}: no artifact {artifact!r} yet; run `leanrec {MADE_BY[artifact]}` first"
            )
        return path


def ingest(settings: RunSettings, work: WorkFolder) -> dict[str, Any]:
    """Turn the raw files into events, items and users."""
    from leanrec.data.ingest import ingest
    from leanrec.data.pseudonyms import load_key

    summary = ingest(
        settings.data,
        key=load_key(),
        events=work.new("events.parquet"),
        items=work.new("items.parquet"),
        users=work.new("users.parquet"),
        feedback=work.new("feedback"),
    )
    counts = {"events": summary.num_events, "items": summary.num_items, "users": summary.num_users}
    if settings.data.feedback is not None:
        counts["feedback"] = summary.feedback.num_joined
    return {**counts, **({"notice": summary.notice} if summary.notice else {})}


def validate(settings: RunSettings, work: WorkFolder) -> dict[str, Any]:
    """Hold the tables against their expectations; exit status 3 when one fails."""
    from leanrec.validation.validate import validate_tables

    report = work.new("validation")
    passed = validate_tables(settings.validation, settings.data, **_tables(work), output=report)
    enforce_gate(folder=report)
    return {"passed": passed, "report": str(report)}


def features(settings: RunSettings, work: WorkFolder) -> dict[str, Any]:
    """Build the feature tables, the training set, and the online rows."""
    from leanrec.data.vocabulary import latest_vocabulary
    from leanrec.features.build import build_features
    from leanrec.features.store import build_training_set, materialize_features

    previous = latest_vocabulary(Path(settings.release.repository))
    tables = work.new("features")
    build_features(
        settings.features, settings.data, **_tables(work), previous_vocabulary=previous, output=tables
    )
    events = work.made("events.parquet")
    build_training_set(
        settings.feature_store, events=events, features=tables, output=work.new("training_set.parquet")
    )
    return materialize_features(settings.feature_store, features=tables, output=work.new("online.json"))


def train(settings: RunSettings, work: WorkFolder) -> dict[str, Any]:
    """Train the retriever and the ranker."""
    from leanrec.release.serving import warm_start_release
    from leanrec.release.starts import train_from_starts

    return train_from_starts(
        settings.training,
        **inputs_of(work),
        output=work.new("model"),
        warm_start=warm_start_release(settings.training, settings.release),
        compare_with_full=settings.retraining.compare_with_full,
    )


def evaluate(settings: RunSettings, work: WorkFolder) -> dict[str, Any]:
    """Measure beside the baselines; exit status 3 when a bound is missed."""
    from leanrec.evaluation.evaluate import evaluate_models

    report = work.new("evaluation")
    passed = evaluate_models(settings.evaluation, model=work.made("model"), **inputs_of(work), output=report)
    enforce_gate(folder=report)
    return {"passed": passed, "report": str(report)}


def export(settings: RunSettings, work: WorkFolder) -> dict[str, Any]:
    """Write the fused graph and the ranker graph, in float32."""
    from leanrec.export.graphs import export_graphs

    return export_graphs(
        settings.release, model=work.made("model"), **inputs_of(work), output=work.new("graphs")
    )


def compress(settings: RunSettings, work: WorkFolder) -> dict[str, Any]:
    """Try every recipe and choose one; exit status 3 when it is not better than the baselines."""
    from leanrec.compression.compress import compress_models

    compressed = work.new("compressed")
    figures = compress_models(
        settings.compression,
        graphs=work.made("graphs"),
        model=work.made("model"),
        evaluation=work.made("evaluation"),
        **inputs_of(work),
        output=compressed,
    )
    enforce_gate(folder=compressed)
    return figures


def publish(settings: RunSettings, work: WorkFolder, *, code_version: str) -> dict[str, Any]:
    """Prove parity in a real Triton, hold it against what serves, then publish version N+1."""
    from leanrec.release.judgement import judge_release
    from leanrec.release.lineage import configuration_of
    from leanrec.release.parity import check_parity
    from leanrec.release.publish import publish_release, refuse_second_candidate

    refuse_second_candidate(settings.release)
    parity, judgement = work.new("parity"), work.new("judgement")
    forms = {"graphs": work.made("graphs"), "compressed": work.made("compressed")}
    check_parity(settings.release, **forms, output=parity)
    enforce_gate(folder=parity)
    judge_release(settings.evaluation, settings.release, **forms, **inputs_of(work), output=judgement)
    enforce_gate(folder=judgement)
    return publish_release(
        settings.release,
        name=settings.name,
        compressed=forms["compressed"],
        features=work.made("features"),
        evaluation=work.made("evaluation"),
        parity=parity,
        judgement=judgement,
        model=work.made("model"),
        feedback=work.made("feedback"),
        lineage={"run": str(work.path), "code_version": code_version, **configuration_of(settings)},
        output=work.new("release.json"),
    )


def _tables(work: WorkFolder) -> dict[str, Path]:
    return {table: work.made(f"{table}.parquet") for table in ("events", "items", "users")}


def inputs_of(work: WorkFolder) -> dict[str, Path]:
    """What is trained and judged on: `features` and `training_set`."""
    return {"features": work.made("features"), "training_set": work.made("training_set.parquet")}


STEPS: dict[str, Callable[[RunSettings, WorkFolder], dict[str, Any]]] = {
    "ingest": ingest,
    "validate": validate,
    "features": features,
    "train": train,
    "evaluate": evaluate,
    "export": export,
    "compress": compress,
}

MADE_BY = {
    "events.parquet": "ingest",
    "items.parquet": "ingest",
    "users.parquet": "ingest",
    "feedback": "ingest",
    "features": "features",
    "training_set.parquet": "features",
    "model": "train",
    "evaluation": "evaluate",
    "graphs": "export",
    "compressed": "compress",
}
