"""What tuning tries, keeps, and writes; the measuring itself stands in tests/integration."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny_release import SPEC

from leanrec.config import TuningSettings
from leanrec.release.tuning import (
    PRESENT,
    Outcome,
    Tuned,
    batching_grid,
    both_stages,
    compute_grid,
    decide,
    survivors,
)
from leanrec.schema import RECOMMENDER
from leanrec.triton.model_configuration import ModelConfiguration

NOW = Tuned(instances=1, threads=0, batch_size=0, queue_delay_us=0)
BEFORE = ModelConfiguration.from_pbtxt(ModelConfiguration.of_model(RECOMMENDER, SPEC, (3, 4)).to_pbtxt())


def test_what_is_tuned_comes_back_from_the_configuration_and_all_else_stays():
    other = replace(BEFORE, parameters={"note": "kept"})
    tuned = Tuned(instances=2, threads=3, batch_size=8, queue_delay_us=500)
    written = ModelConfiguration.from_pbtxt(tuned.within(other).to_pbtxt())
    assert Tuned.of(written) == tuned
    assert written.parameters == {"note": "kept", "intra_op_thread_count": "3"}
    assert (written.versions, written.inputs, written.warmups) == (
        BEFORE.versions,
        BEFORE.inputs,
        BEFORE.warmups,
    )
    assert Tuned.of(BEFORE).within(BEFORE) == BEFORE


def test_a_release_that_must_not_merge_requests_is_never_told_to():
    alone = ModelConfiguration.of_model(RECOMMENDER, SPEC, (1,), merge=False)
    now = Tuned.of(alone)
    assert now.queue_delay_us is None and batching_grid(now, TuningSettings()) == []
    assert replace(now, instances=2).within(alone).dynamic_batching is None


@pytest.mark.parametrize(
    ("cores", "settings", "pairs"),
    [
        (1, {}, [(1, 1)]),
        (2, {}, [(1, 1), (1, 2), (2, 1)]),
        (4, {}, [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1)]),
        (4, {"instances": (3,), "threads": (1, 2)}, [(3, 1)]),
    ],
)  # fmt: skip
def test_instances_and_threads_share_the_cores(cores, settings, pairs):
    grid = compute_grid(NOW, TuningSettings(**settings), cores)
    assert [(tuned.instances, tuned.threads) for tuned in grid] == pairs


def test_batching_is_tried_besides_the_present_one():
    grid = batching_grid(NOW, TuningSettings(batch_sizes=(0, 8), queue_delays_us=(0, 500)))
    assert [(t.batch_size, t.queue_delay_us) for t in grid] == [(0, 500), (8, 0), (8, 500)]


@pytest.mark.parametrize(
    ("ratios", "left"),
    [
        ({"a": [0.9]}, ["a"]),
        ({"a": [0.9], "b": [0.8], "c": [1.0]}, ["b", "a"]),
        ({"a": [0.9, 2.0], "b": [0.8, 0.8], "c": [1.0, 1.0], "d": [3.0], "e": [4.0]}, ["b", "c", "a"]),
    ],
)
def test_the_better_half_stays_and_never_less_than_two(ratios, left):
    assert survivors(ratios) == left


@pytest.mark.parametrize(
    ("ratios", "name", "ratio"),
    [
        ({}, PRESENT, 1.0),
        ({"a": [0.97] * 6}, PRESENT, 1.0),  # better, but not by the margin
        ({"a": [0.8] * 6, "b": [0.7] * 6}, "b", 0.7),
        ({"a": [0.5, 0.5, 0.9, 0.9, 1.3, 1.4]}, PRESENT, 1.0),  # a third of the rounds says otherwise
        ({"a": [0.9] * 6, "b": [0.1, 0.1, 0.1, 0.1, 9.0, 9.0]}, "a", 0.9),
    ],
)
def test_only_what_is_better_in_most_rounds_wins(ratios, name, ratio):
    assert decide(ratios, margin=0.05) == (name, pytest.approx(ratio))


@pytest.mark.parametrize(
    ("first", "second", "ratio", "said"),
    [
        (1.0, 1.0, 1.0, ["first"]),
        (0.8, 1.0, 0.8, ["first"]),
        (1.0, 0.9, 0.9, ["second"]),
        (0.8, 0.9, 0.72, ["p50 at 3 callers is 0.72 times that of", "0.80 times", "0.90 times that"]),
    ],
)  # fmt: skip
def test_the_reason_tells_the_ratio_of_both_stages(first, second, ratio, said):
    stages = [
        Outcome(chosen=replace(NOW, instances=n), changed=value < 1, ratio=value, reason=name)
        for n, (name, value) in enumerate([("first", first), ("second", second)], 2)
    ]
    found = both_stages(*stages, TuningSettings(figure="p50", callers=3))
    assert found.ratio == pytest.approx(ratio) and found.changed is (ratio < 1)
    assert found.chosen == stages[second < 1].chosen
    assert all(words in found.reason for words in said)
