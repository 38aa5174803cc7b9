"""Trainings timed in processes of their own."""

from __future__ import annotations

import pytest

from benchmarks import scaling, uneven
from leanrec.errors import HostError

TINY = {"tables": 2, "rows": 50, "dim": 8, "lookups": 2, "batch_size": 16, "warm_up_steps": 1, "steps": 2}


@pytest.mark.integration
def test_two_processes_are_held_against_one_and_against_what_the_machine_allows():
    outcome = scaling.measure(rounds=1, **TINY)
    (one,), (two,), (ceiling,) = (outcome["rounds"][name] for name in ("one", "two", "ceiling"))
    assert one > 0 and two > 0 and ceiling > 0
    assert outcome["ratio"] == pytest.approx(two / one)
    assert outcome["ceiling"]["ratio"] == pytest.approx(ceiling / one)
    assert outcome["ceiling"]["reached"] == pytest.approx(two / ceiling)
    assert outcome["settings"]["rows"] == 50 and outcome["settings"]["ids"] == "popular"
    assert outcome["even"]["settings"]["ids"] == "even" and outcome["even"]["settings"]["tables"] == 2
    assert outcome["even"]["ratio"] > 0


@pytest.mark.integration
def test_a_training_that_fails_is_told_with_its_reason():
    with pytest.raises(HostError, match=r"ended with status 1: .*Error: "):
        scaling.samples_per_s([1], {**scaling.SETTINGS, **TINY, "sharding": "no_such_sharding"})


@pytest.mark.integration
def test_measured_shares_are_held_against_equal_ones():
    outcome = uneven.measure(rounds=1, slow_us=1000, **TINY)
    assert outcome["ratio"] == pytest.approx(outcome["ours"] / outcome["baseline"])
    assert outcome["none_slow"] > 0 and outcome["settings"]["slow_us"] == 1000
