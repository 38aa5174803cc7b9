"""What a release was made from, so that years later one can say which data, settings and code gave it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from leanrec.config import RunSettings
from leanrec.files import read_json, sha256_of
from leanrec.release.requests import FRONT
from leanrec.schema import USER_ROW

REQUIRED = (
    "name",
    "version",
    "published_at",
    "bytes",
    "recipe",
    "steps",
    "feature_service",
    "metrics",
    "files",
)
"""What a manifest says of the release itself."""
REQUIRED_LINEAGE = ("run", "code_version", "data", "configuration", "settings")
"""What it says of where the release comes from."""
REQUIRED_FILES = (
    "recommender/model.onnx",
    "ranker/model.onnx",
    *(
        f"recommender/release/{name}"
        for name in (
            "spec.json",
            "items.parquet",
            "vocabulary/users.parquet",
            "vocabulary/items.parquet",
            "vocabulary/attributes.json",
            "vocabulary/categories.json",
            "golden.safetensors",
            "golden.json",
            "front.json",
            "evaluation.json",
            "parity.json",
            "judgement.json",
        )
    ),
)


def configuration_of(settings: RunSettings) -> dict[str, Any]:
    """The settings of a run and their digest, for the lineage.

    A setting that is null is left out, as KFP has no null. None holds a secret: passwords and keys come from
    the environment, or from files that settings name.
    """
    values = settings.model_dump(mode="json", exclude_none=True)
    canonical = json.dumps(values, sort_keys=True)
    return {"settings": values, "configuration": hashlib.sha256(canonical.encode()).hexdigest()}


def data_digest(features: Path) -> str:
    """SHA-256 over every file of a features folder: all that a model learns from has passed through it."""
    features = Path(features)
    files = sorted(path for path in features.rglob("*") if path.is_file())
    lines = [f"{path.relative_to(features).as_posix()} {sha256_of(path)}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def facts_of(release: Path) -> dict[str, Any]:
    """What the manifest of the `release` folder being put together says besides its figures.

    `steps` are the compression recipe with all its settings: applied to the same artifacts they give the same
    bytes.
    """
    steps = read_json(Path(release) / FRONT).get("steps", [])
    return {"steps": steps, "feature_service": USER_ROW, "metrics": served_metrics(release)}


def served_metrics(release: Path) -> dict[str, float]:
    """What the served form of the models reached on the test split; empty where its front does not say."""
    front = read_json(Path(release) / FRONT)
    rows = [row for row in front.get("candidates", ()) if row["recipe"] == front["chosen"]]
    return dict(rows[0].get("test") or {}) if rows else {}


def missing_from(manifest: dict[str, Any]) -> list[str]:
    """What a complete manifest would say and this one does not; releases of older code may lack some."""
    lineage = manifest.get("lineage") or {}
    missing = [key for key in REQUIRED if key not in manifest]
    missing += [f"lineage.{key}" for key in REQUIRED_LINEAGE if key not in lineage]
    return missing + [f"files.{name}" for name in REQUIRED_FILES if name not in manifest.get("files", {})]
