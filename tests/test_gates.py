"""Gates: what passes, what stops a run, and what the sentence says."""

from pathlib import Path

import pytest

from leanrec.errors import GateError
from leanrec.gates import above, at_least, at_most, enforce_gate, write_gate

NAN = float("nan")


@pytest.mark.parametrize(
    ("check", "passed"),
    [
        (at_least("a", 1.0, 1.0), True),
        (at_least("a", 0.99, 1.0), False),
        (at_least("a", NAN, 1.0), False),
        (above("a", 1.01, 1.0), True),
        (above("a", 1.0, 1.0), False),
        (above("a", NAN, 1.0), False),
        (at_most("a", 1.0, 1.0), True),
        (at_most("a", 1.01, 1.0), False),
        (at_most("a", NAN, 1.0), False),
        (at_most("a", float("inf"), 1.0), False),
    ],
)
def test_a_figure_is_held_against_its_bound(check, passed: bool) -> None:
    assert check.passed is passed


def test_a_gate_that_passed_lets_the_run_go_on(tmp_path: Path) -> None:
    assert write_gate(tmp_path, "quality", [at_least("auc", 0.8, 0.7)])
    enforce_gate(folder=tmp_path)


def test_a_missed_gate_names_every_figure_its_value_and_its_bound(tmp_path: Path) -> None:
    checks = [at_least("auc", 0.6, 0.7), at_least("ndcg", 0.2, 0.1), at_most("ece", NAN, 0.1, "look at x")]
    assert not write_gate(tmp_path, "quality", checks)
    with pytest.raises(GateError) as raised:
        enforce_gate(folder=tmp_path)
    assert str(raised.value) == "gate quality: auc is 0.6, bound >= 0.7; ece is nan, bound <= 0.1 (look at x)"
    assert raised.value.exit_status == 3
