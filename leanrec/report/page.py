"""The report as a step of the pipeline: one page, which Kubeflow shows beside the run."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from leanrec.files import write_text
from leanrec.journal import step
from leanrec.report.build import render
from leanrec.report.figures import collect_figures
from leanrec.report.inputs import ReportInputs, RunFacts, read_content


@step("write_report")
def write_report(
    *,
    name: str,
    lineage: dict[str, Any],
    validation: Path,
    drift: Path,
    model: Path,
    evaluation: Path,
    compressed: Path,
    parity: Path,
    judgement: Path,
    release: Path,
    smoke: Path,
    output: Path,
) -> None:
    """Write the page of a run that went well to the file `output`.

    It knows the steps' results and not their seconds, which belong to whoever runs the steps:
    Kubeflow shows them itself, and `leanrec run` draws the report once more with its journal.
    """
    facts = RunFacts(
        name=name,
        run_id=lineage.get("run", name),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        total_seconds=0.0,
        code_version=lineage.get("code_version", ""),
    )
    inputs = ReportInputs(
        run=facts,
        validation=validation,
        drift=drift,
        model=model,
        evaluation=evaluation,
        compressed=compressed,
        parity=parity,
        judgement=judgement,
        release=release,
        smoke=smoke,
    )
    write_text(output, render(collect_figures(inputs, read_content(inputs))))
