"""The flow tells what ran, what was reused, what failed and where the time went."""

import pytest
from run_artifacts import make_facts, make_journal

from leanrec.journal import StepRecord
from leanrec.report.flow import PIPELINE, measure_durations, trace_steps


def test_every_step_has_a_status_in_the_order_of_the_pipeline():
    journal = [*make_journal(["train_models"]), StepRecord(step="evaluate_models", started=1.0)]
    steps = trace_steps(make_facts(cached_steps=["ingest_events"]), journal)
    assert [step.step for step in steps] == list(PIPELINE)
    status = {step.step: step.status for step in steps}
    assert status["ingest_events"] == "reused"
    assert status["train_models"] == "done"
    assert status["evaluate_models"] == "failed"
    assert status["publish_release"] == "not run"


def test_a_missed_gate_marks_the_step_it_judges():
    error = {"type": "GateError", "message": "gate evaluation: ...", "ours": True}
    journal = [
        *make_journal(["evaluate_models"]),
        StepRecord(step="enforce_gate", started=1.0, seconds=0.1, error=error),
    ]
    steps = trace_steps(make_facts(), journal, ["evaluation"])
    assert len(steps) == len(PIPELINE)
    assert {step.step for step in steps if step.status == "failed"} == {"evaluate_models"}


def test_a_failure_outside_the_pipeline_is_shown_with_its_sentence():
    error = {"type": "GateError", "message": "gate parity: ...", "ours": True}
    journal = [StepRecord(step="enforce_gate", started=1.0, seconds=0.1, error=error)]
    last = trace_steps(make_facts(), journal)[-1]
    assert (last.title, last.status, last.error) == ("Enforce gate", "failed", "gate parity: ...")


def test_orchestration_is_what_no_step_covers_and_steps_within_steps_count_once():
    journal = [
        StepRecord(step="train_models", started=100.0, seconds=30.0),
        StepRecord(step="enforce_gate", started=110.0, seconds=5.0),
        StepRecord(step="export_graphs", started=140.0, seconds=10.0),
    ]
    durations = measure_durations(make_facts(total_seconds=50.0), journal)
    assert durations.steps == pytest.approx(40.0)
    assert durations.orchestration == pytest.approx(10.0)
    assert durations.orchestration_share == pytest.approx(0.2)


def test_a_run_without_a_journal_is_all_orchestration():
    assert measure_durations(make_facts(total_seconds=3.0), []).orchestration_share == 1.0


def test_a_rollout_is_shown_where_the_run_made_one():
    record = StepRecord(step="roll_out_release", started=1.0, seconds=9.0)
    assert trace_steps(make_facts(), [*make_journal(), record])[-1].title == "Rollout"
    assert "roll_out_release" not in [step.step for step in trace_steps(make_facts(), make_journal())]
