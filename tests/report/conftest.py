"""Runs to report on."""

import pytest
from run_artifacts import make_facts, make_inputs, make_journal, write_artifacts

from leanrec.files import write_json
from leanrec.journal import StepRecord
from leanrec.report.inputs import ReportInputs


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory) -> ReportInputs:
    return make_inputs(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def failed_run(tmp_path_factory) -> ReportInputs:
    """A run that the validation gate stopped."""
    folder = tmp_path_factory.mktemp("failed")
    paths = write_artifacts(folder)
    expectation = {
        "table": "events", "column": "rating", "rule": "not null", "passed": False,
        "expectation": "ExpectColumnValuesToNotBeNull", "error": None, "observed": "null",
        "num_rows": 100_000, "num_failing": 3,
        "failing_rows": [{"row": n, "id": f"event {n}", "value": "null"} for n in (17, 4_021, 99_998)],
        "message": "events.rating: 3 of 100,000 rows are null",
    }  # fmt: skip
    check = {
        "figure": "events.rating not null", "value": 3, "bound": "0 rows", "passed": False,
        "detail": "rows 17, 4021, 99998",
    }  # fmt: skip
    write_json(folder / "validation/validation.json", {"passed": False, "expectations": [expectation]})
    write_json(folder / "validation/gate.json", {"gate": "validation", "passed": False, "checks": [check]})
    journal = make_journal(["ingest_events", "validate_tables"])
    message = "gate validation: events.rating not null is 3, bound 0 rows (rows 17, 4021, 99998)"
    error = {"type": "GateError", "message": message, "ours": True}
    journal.append(StepRecord(step="enforce_gate", started=1_750_000_010.0, seconds=0.1, error=error))
    known = {name: paths[name] for name in ("events", "items", "users", "validation")}
    return ReportInputs(run=make_facts(total_seconds=9.0, failure=message), journal=journal, **known)
