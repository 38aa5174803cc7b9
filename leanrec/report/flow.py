"""What each step did and where the time went, from the journal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from leanrec.journal import StepRecord
from leanrec.report.inputs import RunFacts

PIPELINE = {
    "ingest_events": "Ingest",
    "validate_tables": "Validate",
    "build_features": "Features",
    "build_training_set": "Training set",
    "check_drift": "Drift",
    "train_models": "Train",
    "evaluate_models": "Evaluate",
    "export_graphs": "Export",
    "compress_models": "Compress",
    "check_parity": "Parity",
    "judge_release": "Judge",
    "materialize_features": "Online store",
    "publish_release": "Release",
    "smoke_test_release": "Smoke test",
    "write_report": "Report",
}
"""The steps in the order of the data's way, by component name."""

ON_DEMAND = {"roll_out_release": "Rollout"}
"""Steps of those runs only that ask for them."""

GATES = {
    "validation": "validate_tables",
    "evaluation": "evaluate_models",
    "compression": "compress_models",
    "parity": "check_parity",
    "judgement": "judge_release",
}
"""The gate -> the step whose figures it holds against bounds."""

DONE, REUSED, FAILED, NOT_RUN = "done", "reused", "failed", "not run"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the flow; `seconds` is None when it did not run or nobody took its time."""

    step: str
    title: str
    status: str
    seconds: float | None
    share: float | None
    """Of the run's total seconds."""
    error: str | None


@dataclass(frozen=True, kw_only=True)
class Durations:
    """The run's seconds: the steps' own work, and everything else."""

    total: float
    steps: float
    orchestration: float
    orchestration_share: float


def trace_steps(run: RunFacts, journal: Sequence[StepRecord], missed_gates: Sequence[str] = ()) -> list[Step]:
    """Every step of the pipeline; one whose gate was missed counts as failed.

    Of a run that went well and left no journal, every step is done and its seconds are not known.
    A failure that belongs to none of them (and to no gate) is added as a step of its own.
    """
    missed = {GATES[gate] for gate in missed_gates if gate in GATES}
    ran = {record.step for record in journal}
    shown = PIPELINE | {name: title for name, title in ON_DEMAND.items() if name in ran}
    steps = [_trace(name, title, run, journal) for name, title in shown.items()]
    steps = [
        replace(step, status=FAILED, error="its gate was missed") if step.step in missed else step
        for step in steps
    ]
    others = [record for record in journal if record.step not in shown and record.error]
    if missed:
        others = [record for record in others if record.error and record.error["type"] != "GateError"]
    return steps + [
        _trace(record.step, record.step.replace("_", " ").capitalize(), run, [record]) for record in others
    ]


def measure_durations(run: RunFacts, journal: Sequence[StepRecord]) -> Durations:
    """How much of the run was the steps' own work; a step within a step counts once."""
    covered, end = 0.0, 0.0
    for record in sorted(journal, key=lambda record: record.started):
        finish = record.started + (record.seconds or 0.0)
        covered += max(0.0, finish - max(end, record.started))
        end = max(end, finish)
    total = max(run.total_seconds, covered)
    share = (total - covered) / total if total else 0.0
    return Durations(total=total, steps=covered, orchestration=total - covered, orchestration_share=share)


def _trace(name: str, title: str, run: RunFacts, journal: Sequence[StepRecord]) -> Step:
    records = [record for record in journal if record.step == name]
    if not records:
        done = DONE if run.failure is None and not journal else NOT_RUN
        status = REUSED if name in run.cached_steps else done
        return Step(step=name, title=title, status=status, seconds=None, share=None, error=None)
    last = records[-1]
    seconds = sum(record.seconds or 0.0 for record in records)
    failed = bool(last.error) or last.seconds is None
    error = last.error["message"] if last.error else None if last.seconds is not None else "stopped midway"
    return Step(
        step=name,
        title=title,
        status=FAILED if failed else DONE,
        seconds=seconds,
        share=seconds / run.total_seconds if run.total_seconds else None,
        error=error,
    )
