"""What a report is made of: the artifacts of a run, as far as it came."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from leanrec.files import read_json
from leanrec.journal import StepRecord
from leanrec.report.releases import read_releases


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What the front door knows of the run."""

    name: str
    """The configuration's name."""
    run_id: str
    started: str
    """ISO 8601, UTC."""
    total_seconds: float
    """From the command's start to its end, set-up of the pipeline included."""
    code_version: str = ""
    cached_steps: Sequence[str] = ()
    """Steps whose artifacts were reused from an earlier run."""
    failure: str | None = None
    """The sentence that ended the run; None when it went well."""


@dataclass(frozen=True, kw_only=True)
class ReportInputs:
    """Paths of the run's artifacts; one that is None or not there is left out of the report."""

    run: RunFacts
    settings: dict[str, Any] = field(default_factory=dict)
    journal: Sequence[StepRecord] = ()
    events: Path | None = None
    items: Path | None = None
    users: Path | None = None
    feedback: Path | None = None
    drift: Path | None = None
    validation: Path | None = None
    features: Path | None = None
    training_set: Path | None = None
    model: Path | None = None
    evaluation: Path | None = None
    graphs: Path | None = None
    compressed: Path | None = None
    parity: Path | None = None
    judgement: Path | None = None
    release: Path | None = None
    smoke: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Content:
    """The artifacts' JSON, each None when the run did not come so far."""

    num_rows: dict[str, int]
    """Rows of events, items, users and training set, as far as they are there."""
    validation: list[dict[str, Any]] | None
    gates: list[dict[str, Any]]
    """Every gate.json, in the order of the pipeline."""
    drift: dict[str, Any] | None
    model: dict[str, Any] | None
    curves: dict[str, Any] | None
    starts: dict[str, Any] | None
    """A warm start beside a full training, where the run made both."""
    evaluation: dict[str, Any] | None
    front: dict[str, Any] | None
    parity: dict[str, Any] | None
    release: dict[str, Any] | None
    smoke: dict[str, Any] | None
    releases: dict[str, Any] | None
    """What `leanrec.report.releases.read_releases` finds in the run's model repository."""
    unreadable: list[str]
    """Artifacts that are there but cannot be read: a run may have died while it wrote them."""


def read_content(inputs: ReportInputs) -> Content:
    """Read every artifact that is there. Never raises: what cannot be read is named instead."""
    unreadable: list[str] = []

    def read(folder: Path | None, *name: str) -> Any:
        path = Path(folder, *name) if folder else None
        if path is None or not path.exists():
            return None
        try:
            return finite(read_json(path))
        except (OSError, ValueError):
            unreadable.append("/".join(path.parts[-2:]))
            return None

    tables = {name: getattr(inputs, name) for name in ("events", "items", "users", "training_set")}
    judged = (inputs.validation, inputs.evaluation, inputs.compressed, inputs.parity, inputs.judgement)
    gates = [read(folder, "gate.json") for folder in judged]
    release = read(inputs.release)
    repository = (release or inputs.settings.get("release") or {}).get("repository")
    return Content(
        num_rows=_count_rows(tables, unreadable),
        validation=_expectations(read(inputs.validation, "validation.json")),
        gates=[gate for gate in gates if gate],
        drift=read(inputs.drift, "drift.json"),
        model=read(inputs.model, "model.json"),
        curves=read(inputs.model, "curves.json"),
        starts=read(inputs.model, "starts.json"),
        evaluation=read(inputs.evaluation, "evaluation.json"),
        front=read(inputs.compressed, "front.json"),
        parity=read(inputs.parity, "parity.json"),
        release=release,
        smoke=read(inputs.smoke),
        releases=read_releases(Path(repository), read) if repository else None,
        unreadable=unreadable,
    )


def finite(value: Any) -> Any:
    """`value` with None in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value


def _count_rows(tables: dict[str, Path | None], unreadable: list[str]) -> dict[str, int]:
    rows = {}
    for name, path in tables.items():
        if path is None or not Path(path).exists():
            continue
        try:
            rows[name] = int(pq.read_metadata(path).num_rows)
        except (OSError, pa.ArrowInvalid):
            unreadable.append(name)
    return rows


def _expectations(validation: Any) -> list[dict[str, Any]] | None:
    """The list of expectations, whether it is the whole of validation.json or one value in it."""
    if isinstance(validation, dict):
        validation = next((value for value in validation.values() if isinstance(value, list)), None)
    return validation if isinstance(validation, list) else None
