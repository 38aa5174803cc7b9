"""The choice between recipes, case by case."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from leanrec.compression.selection import (
    Choice,
    Measured,
    choose,
    objective,
    pareto_front,
    shortlist,
)
from leanrec.config import CompressionSettings
from leanrec.errors import CompressionError, ConfigError

NAN = math.nan


def measured(recipe, size=1000, ratio=1.0, auc_loss=0.0, ndcg_loss=0.0, p99=None) -> Measured:
    return Measured(
        recipe=recipe,
        bytes=size,
        latency_ratio=ratio,
        auc_loss=auc_loss,
        ndcg_loss=ndcg_loss,
        triton_p99_ms=p99,
    )


def pick(*candidates: Measured, **settings) -> Choice:
    return choose((measured("fp32"), *candidates), CompressionSettings(**settings), "fp32")


CASES = [
    # candidates besides fp32, settings, chosen, words of the reason
    ([], {}, "fp32", "uncompressed"),
    ([measured("fast", ratio=0.6)], {}, "fast", "0.60 times the latency"),
    ([measured("slow", 300, ratio=1.3)], {}, "fp32", "no recipe is faster"),
    ([measured("a", 900, 0.6), measured("b", 300, 0.62)], {}, "b", "ties within 0.05 go to the smallest"),
    ([measured("a", 900, 0.5), measured("b", 300, 0.62)], {}, "a", "least objective"),
    ([measured("a", 900, 0.5), measured("b", 300, 0.62)], {"tie": 0.1}, "b", "ties within 0.1 go"),
    ([measured("bad", 100, 0.1, auc_loss=0.002)], {}, "fp32", "no recipe is within the quality floor"),
    ([measured("bad", 100, 0.1, ndcg_loss=0.02)], {}, "fp32", "no recipe is within the quality floor"),
    ([measured("bad", 100, 0.1, auc_loss=0.002)], {"max_auc_loss": 0.01}, "bad", "0.10 times the bytes"),
    ([measured("lossy", 100, 0.9, auc_loss=0.0009)], {"alpha": 0.1}, "fp32", "least objective"),
    ([measured("lossy", 100, 0.9, auc_loss=0.0009)], {"alpha": 1.0}, "lossy", "least objective"),
    ([measured("gain", 500, 0.9, auc_loss=-0.01, ndcg_loss=-0.1)], {}, "gain", "NDCG@10 10.00% higher"),
    ([measured("even", 500, 0.9, auc_loss=-0.00001)], {}, "even", "no AUC lost, no NDCG@10 lost"),
    ([measured("less", 500, 0.5, auc_loss=0.0004)], {}, "less", "AUC 0.0004 lower"),
    ([measured("nan", 100, 0.1, auc_loss=NAN)], {}, "fp32", "no recipe is within the quality floor"),
    ([measured("nan", 100, NAN)], {"alpha": 0.0}, "fp32", "no recipe is within the quality floor"),
    ([measured("small", 400, 1.5)], {"max_bytes": 500}, "small", "0.40 times the bytes"),
    (
        [measured("small", 400, 0.5)],
        {"max_bytes": 100},
        "fp32",
        "nearest is small with 400 bytes (4.00 times",
    ),
    ([measured("small", 40, 0.5, 0.1)], {"max_bytes": 100}, "fp32", "nearest is fp32 with 1,000 bytes"),
]


@pytest.mark.parametrize(("candidates", "settings", "chosen", "words"), CASES)
def test_the_choice_and_its_reason(candidates, settings, chosen, words):
    choice = pick(*candidates, **settings)
    assert choice.chosen == chosen
    assert words in choice.reason
    for verdict in choice.verdicts:
        assert (verdict.why_not is None) == (verdict.recipe == chosen)


def test_no_candidate_within_the_floor_releases_fp32_and_says_so():
    choice = choose([measured("fp32", ratio=NAN), measured("x", auc_loss=1.0)], CompressionSettings(), "fp32")
    assert choice.chosen == "fp32" and "no recipe is within the quality floor" in choice.reason


def test_what_test_set_aside_is_not_chosen_and_the_reason_names_it():
    first = replace(measured("first", 100, 0.5), missed_on_test="on test it fell")
    choice = pick(first, measured("second", 300, 0.6))
    assert choice.chosen == "second"
    assert choice.reason.endswith("; preferred on valid, and set aside: first (on test it fell)")
    verdict = next(verdict for verdict in choice.verdicts if verdict.recipe == "first")
    assert verdict.why_not == "on test it fell" and not verdict.within_floor
    assert pick(first).chosen == "fp32" and "no recipe is within the quality floor" in pick(first).reason


def test_each_loser_is_told_why():
    choice = pick(
        measured("bad", auc_loss=0.002), measured("nan", ndcg_loss=NAN), measured("slow", ratio=2.0)
    )
    reasons = {verdict.recipe: verdict.why_not for verdict in choice.verdicts}
    assert reasons["bad"] == "AUC falls by 0.0020, floor 0.001"
    assert reasons["nan"] == "its NDCG@10 loss is not a number"
    assert reasons["slow"] == "objective 1.000, and fp32 has 0.500"


def test_the_objective_counts_losses_in_units_of_their_floors():
    settings = CompressionSettings(alpha=0.25, max_auc_loss=0.001, max_ndcg_loss=0.01)
    both = measured("x", ratio=0.8, auc_loss=0.001, ndcg_loss=0.01)
    assert objective(both, settings) == pytest.approx(0.25 * 0.8 + 0.75 * 1.0)
    assert objective(measured("x", ratio=0.8, auc_loss=-1), settings) == pytest.approx(0.2)
    assert math.isnan(objective(measured("x", auc_loss=NAN), settings))


def test_a_floor_of_zero_allows_no_loss():
    exact = {"max_auc_loss": 0.0, "max_ndcg_loss": 0.0}
    assert pick(measured("same", 500, 0.5), **exact).chosen == "same"
    assert pick(measured("less", 500, 0.5, auc_loss=1e-9), **exact).chosen == "fp32"


def test_without_a_baseline_there_is_nothing_to_hold_against():
    with pytest.raises(CompressionError, match="'fp32' is missing"):
        choose([measured("int8")], CompressionSettings(), "fp32")


def test_a_latency_budget_is_held_against_what_triton_showed():
    quick, slow = measured("quick", 900, 0.9, p99=2.0), measured("slow", 500, 0.5, p99=6.0)
    unmeasured = measured("unmeasured", 100, 0.4)
    choice = pick(quick, slow, unmeasured, max_latency_ms=5.0)
    assert choice.chosen == "quick"
    reasons = {verdict.recipe: verdict.why_not for verdict in choice.verdicts}
    assert reasons["slow"] == "p99 6.00 ms in Triton, budget 5 ms"
    assert "not on the shortlist" in reasons["unmeasured"]


def test_an_unreachable_latency_budget_says_how_near_which_recipe_came():
    choice = pick(measured("quick", 900, 0.9, p99=2.0), measured("slow", p99=6.0), max_latency_ms=0.5)
    assert choice.chosen == "fp32"
    assert "the nearest is quick with 2.00 ms (4.00 times the budget)" in choice.reason


def test_the_front_holds_what_nothing_dominates():
    small, quick = measured("small", 100, 1.2), measured("quick", 900, 0.5)
    worse, broken = measured("worse", 950, 0.6), measured("broken", 1, NAN)
    settings = CompressionSettings()
    everything = [measured("fp32"), small, quick, worse, broken]
    assert [c.recipe for c in pareto_front(everything, settings)] == ["small", "quick"]
    verdicts = choose(everything, settings, "fp32").verdicts
    assert [v.recipe for v in verdicts if v.on_front] == ["small", "quick"]
    same = [measured("fp32"), measured("twin")]
    assert pareto_front(same, settings) == same


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"shortlist": 0}, []),
        ({}, ["fp32", "quick", "small", "dull", "lossy", "broken"]),
        ({"shortlist": 1}, ["fp32", "quick"]),
        ({"shortlist": 4}, ["fp32", "quick", "small", "dull", "lossy"]),
        ({"shortlist": 1, "max_bytes": 500}, ["fp32", "small"]),
        ({"max_bytes": 500}, ["fp32", "small", "quick", "lossy", "dull", "broken"]),
    ],
)
def test_all_are_measured_in_triton_and_the_likeliest_first(settings, names):
    candidates = [
        measured("fp32"),
        measured("broken", 10, NAN),
        measured("lossy", 10, 0.1, auc_loss=0.5),
        measured("dull", 950, 0.6),
        measured("small", 100, 1.2),
        measured("quick", 900, 0.5),
    ]
    assert shortlist(candidates, CompressionSettings(**settings), "fp32") == names


def test_a_latency_budget_without_a_measurement_is_refused():
    with pytest.raises(ConfigError, match="shortlist is 0"):
        CompressionSettings.parse({"max_latency_ms": 5, "shortlist": 0})
