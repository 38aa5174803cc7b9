"""A run on this machine from beginning to end: its folder, the pipeline, the report."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from leanrec.config import DataSettings, RunSettings
from leanrec.data.pseudonyms import key_fingerprint, load_key
from leanrec.data.vocabulary import vocabulary_fingerprint
from leanrec.errors import ConfigError, LeanRecError
from leanrec.files import read_json, sha256_of, write_json
from leanrec.journal import StepRecord, read_journal
from leanrec.release.serving import warm_start_release
from leanrec.report.build import build_report, write_latest
from leanrec.report.flow import PIPELINE
from leanrec.report.inputs import ReportInputs, RunFacts
from pipelines.code_version import code_version
from pipelines.compile import arguments_of, compile_pipeline, feature_inputs
from pipelines.placement import Placement
from pipelines.run_local import RunFolder, run_pipeline

OUTPUTS = {
    "validate_tables": "validation",
    "build_features": "features",
    "build_training_set": "training_set",
    "check_drift": "drift",
    "train_models": "model",
    "evaluate_models": "evaluation",
    "export_graphs": "graphs",
    "compress_models": "compressed",
    "check_parity": "parity",
    "judge_release": "judgement",
    "publish_release": "release",
    "smoke_test_release": "smoke",
}
"""The artifact that each step writes."""

RENAMED = {"published": "release"}

ARTIFACTS = ("events", "items", "users", "feedback", *OUTPUTS.values())


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run came to."""

    folder: Path
    report: Path
    figures: dict[str, Any]
    """Of the run; "release" is None where `retraining.trigger` asked for none."""
    answers: dict[str, Any] | None


def run_here(settings: RunSettings, *, watch: Callable[[dict[str, Any]], None]) -> Outcome:
    """Run the pipeline for `settings` in a new run folder; the report is drawn whatever happens.

    Raises:
        LeanRecError: Of the step that failed, after the report was drawn.
    """
    folder = _new_folder(settings)
    version = code_version()
    write_json(folder.path / "settings.json", settings.model_dump(mode="json"))
    facts: dict[str, Any] = {
        "name": settings.name,
        "run_id": folder.path.name,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "code_version": version,
        "failure": None,
    }
    compile_pipeline(Placement(image=f"leanrec/pipeline:{version}", reuse_ingest=True), folder.package)
    arguments = _arguments(settings, run=folder.path.name, code_version=version)
    clock = time.perf_counter()
    try:
        run_pipeline(folder, arguments, cache=Path(settings.runs) / "cache", watch=watch)
    except BaseException as error:
        facts["failure"] = _in_words(error)
        with contextlib.suppress(OSError, LeanRecError):  # what stopped the run is what must be told
            _finish(folder, facts, time.perf_counter() - clock)
        raise
    report = _finish(folder, facts, time.perf_counter() - clock)
    made = artifacts_of(folder)
    found = {name: read_json(made[name]) if name in made else None for name in ("release", "smoke")}
    drift = read_json(made["drift"] / "drift.json")
    return Outcome(
        folder=folder.path,
        report=report,
        figures={**facts, "drift": drift, "release": found["release"], "report": str(report)},
        answers=found["smoke"],
    )


def _arguments(settings: RunSettings, *, run: str, code_version: str) -> dict[str, Any]:
    """The pipeline's arguments, with all that steps depend on and that can be seen from here."""
    key, raw = key_fingerprint(load_key()), raw_fingerprint(settings.data)
    warm = warm_start_release(settings.training, settings.release)
    newest = vocabulary_fingerprint(Path(settings.release.repository), feature_inputs(settings, key, raw))
    return arguments_of(
        settings,
        run=run,
        code_version=code_version,
        key_fingerprint=key,
        raw_fingerprint=raw,
        vocabulary_fingerprint=newest,
        warm_start_fingerprint=sha256_of(warm / "manifest.json")[:12] if warm else "",
    )


def _in_words(error: BaseException) -> str:
    if isinstance(error, LeanRecError):
        return str(error)
    return f"{type(error).__name__}: {error}" if isinstance(error, Exception) else "stopped by hand"


def _finish(folder: RunFolder, facts: dict[str, Any], seconds: float) -> Path:
    """Write down how the run ended and draw its report; the page's path."""
    write_json(folder.path / "facts.json", {**facts, "total_seconds": seconds})
    return redraw_report(folder.path)


def raw_fingerprint(data: DataSettings) -> str:
    """Names, sizes and times of change of the raw files and the event log.

    As with make, a touched file is read again.
    """
    states = []
    for name in filter(None, (data.events, data.items, data.users, data.feedback)):
        path = Path(name)
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                states.append(f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}")
    return hashlib.sha256("\n".join(states).encode()).hexdigest()[:12]


def redraw_report(path: Path) -> Path:
    """Draw the report of the run in `path` from what it left; the page's path."""
    folder = RunFolder(path=path)
    if not (path / "facts.json").exists():
        raise ConfigError(f"{path}: no run lies there; `leanrec run CONFIG` makes one")
    facts = read_json(path / "facts.json")
    journal = read_journal(folder.journal)
    inputs = ReportInputs(
        run=RunFacts(**facts, cached_steps=_reused(facts, journal)),
        settings=read_json(path / "settings.json"),
        journal=journal,
        **artifacts_of(folder),
    )
    build_report(inputs, path)
    write_latest(path.parent, path)
    return path / "report.html"


def artifacts_of(folder: RunFolder) -> dict[str, Path]:
    """Every artifact that a step of the run made or was given, by name; reused ones included."""
    found: dict[str, Path] = {}
    for record in read_journal(folder.journal):
        for key, path in record.paths.items():
            name = OUTPUTS.get(record.step) if key == "output" else RENAMED.get(key, key)
            if name in ARTIFACTS and Path(path).exists():
                found[name] = Path(path)
    return found


def _reused(facts: dict[str, Any], journal: list[StepRecord]) -> list[str]:
    """Steps that the run did not have to do again: those it passed, or all where it went well."""
    ran = {record.step for record in journal}
    reached = [number for number, name in enumerate(PIPELINE) if name in ran or not facts["failure"]]
    return [name for name in list(PIPELINE)[: max(reached, default=0)] if name not in ran]


def _new_folder(settings: RunSettings) -> RunFolder:
    stamp = f"{settings.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    for attempt in itertools.count(1):
        path = Path(settings.runs) / (stamp if attempt == 1 else f"{stamp}-{attempt}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ConfigError(f"setting 'runs': {path} cannot be made ({reason}); name another") from None
        return RunFolder(path=path)
    raise AssertionError("unreachable")
