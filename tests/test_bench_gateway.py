"""The gateway's benchmark counts whole answers of the measured release, and tells each round's phases."""

import json
from typing import Any

import pytest

from benchmarks.load import check_answers, mean_phases, phase_totals
from leanrec.errors import ServingError


def answer(**changes: Any) -> bytes:
    whole = {"release": 3, "known": True, "degraded": None, "items": [{}, {}]}
    return json.dumps({**whole, **changes}).encode()


def test_whole_answers_of_the_release_count() -> None:
    check_answers([answer(), answer()], release=3, k=2)


@pytest.mark.parametrize(
    "changes", [{"degraded": "popular"}, {"known": False}, {"release": 2}, {"items": [{}]}], ids=str
)
def test_any_other_answer_ends_the_benchmark(changes: dict[str, Any]) -> None:
    with pytest.raises(ServingError, match=r"the gateway answered .* not .*'release': 3.* with 2"):
        check_answers([answer(), answer(**changes)], release=3, k=2)


def metrics(features: float, count: int) -> str:
    return (
        "# TYPE leanrec_phase_seconds histogram\n"
        f'leanrec_phase_seconds_bucket{{le="0.1",phase="features"}} {count}\n'
        f'leanrec_phase_seconds_sum{{phase="features"}} {features}\n'
        f'leanrec_phase_seconds_count{{phase="features"}} {count}\n'
        "leanrec_other_total 7.0\n"
    )


def test_the_phases_of_a_round_are_what_came_since_the_last_look() -> None:
    before, after = phase_totals(metrics(1.0, 100)), phase_totals(metrics(1.5, 200))
    assert mean_phases(before, after) == {"features": 5.0, "model": 0.0, "finish": 0.0}
    assert mean_phases(phase_totals(""), before)["features"] == 10.0
