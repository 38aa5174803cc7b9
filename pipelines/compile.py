"""Compile the pipeline into the IR YAML that KFP runs, here and in a cluster."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from kfp import compiler

from leanrec.config import RunSettings
from leanrec.files import atomic_file
from leanrec.release.lineage import configuration_of
from pipelines.placement import Placement
from pipelines.recommender import build_pipeline

SECTIONS = (
    "data",
    "validation",
    "features",
    "feature_store",
    "training",
    "evaluation",
    "compression",
    "release",
    "retraining",
    "rollout",
    "gateway",
    "serving",
)


def compile_pipeline(placement: Placement, output: Path) -> None:
    """Write the pipeline's IR YAML to `output`, whole or not at all."""
    with atomic_file(output) as beside:
        compiler.Compiler().compile(build_pipeline(placement), str(beside))


def arguments_of(
    settings: RunSettings,
    *,
    run: str,
    code_version: str,
    key_fingerprint: str = "",
    raw_fingerprint: str = "",
    vocabulary_fingerprint: str = "",
    warm_start_fingerprint: str = "",
) -> dict[str, Any]:
    """The pipeline's arguments: a section each, and what the release is made from.

    The fingerprints name the pseudonym key, the state of the raw files, the newest vocabulary and the release
    that training goes on from, where they can be seen from here: what steps depend on and a cache could not
    know.
    A setting that is null is left out, for KFP has no null; the section's default says it again.
    """
    sections = {name: getattr(settings, name).model_dump(mode="json", exclude_none=True) for name in SECTIONS}
    return {
        "name": settings.name,
        **sections,
        "roll_out": settings.rollout.after_publish,
        "lineage": {
            "run": run,
            "code_version": code_version,
            "inputs": feature_inputs(settings, key_fingerprint, raw_fingerprint),
            "vocabulary_fingerprint": vocabulary_fingerprint,
            **configuration_of(settings),
        },
        "key_fingerprint": key_fingerprint,
        "raw_fingerprint": raw_fingerprint,
        "vocabulary_fingerprint": vocabulary_fingerprint,
        "warm_start_fingerprint": warm_start_fingerprint,
        "compare_with_full": settings.retraining.compare_with_full,
    }


def feature_inputs(settings: RunSettings, key_fingerprint: str, raw_fingerprint: str) -> str:
    """A digest of what features are built from besides the newest vocabulary; "" where it cannot be seen."""
    if not (key_fingerprint and raw_fingerprint):
        return ""
    sections = [getattr(settings, name).model_dump(mode="json") for name in ("data", "features")]
    inputs = json.dumps([*sections, key_fingerprint, raw_fingerprint], sort_keys=True)
    return hashlib.sha256(inputs.encode()).hexdigest()[:12]
