"""What the test split says: strict against baselines, and a loss counts where it is more than chance."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from leanrec.compression.acceptance import (
    Accepted,
    Judged,
    accept,
    baseline_checks,
    floor_checks,
    loss_on_test,
)
from leanrec.compression.selection import Measured
from leanrec.config import CompressionSettings
from leanrec.gates import Check

USERS = 400
RANDOM = np.random.default_rng(0)
LIKED = RANDOM.random(USERS * 5) < 0.5
LIKE = np.where(LIKED, 0.6, 0.4) + RANDOM.normal(0, 0.2, LIKED.size)
PROTOCOL = SimpleNamespace(pairs=SimpleNamespace(liked=LIKED, user=np.repeat(np.arange(USERS), 5)))
NDCG = RANDOM.random(USERS)


def judged(ndcg: np.ndarray, like: np.ndarray = LIKE, recipe: str = "int8") -> Judged:
    positive, negative = like[LIKED], like[~LIKED]
    auc = float((positive[:, None] > negative[None]).mean())
    return Judged(
        recipe=recipe, quality={"auc": auc, "ndcg@10": float(ndcg.mean())}, ndcg=ndcg, like=like.copy()
    )


def checks_of(chosen: Judged, baselines: dict[str, float]) -> list[Check]:
    lost = loss_on_test(chosen, judged(NDCG), PROTOCOL)
    return [*baseline_checks(chosen, baselines), *floor_checks(CompressionSettings(), chosen.recipe, lost)]


def kept(chosen: Judged, **baselines: float) -> list[bool]:
    return [check.passed for check in checks_of(chosen, baselines)]


def test_the_same_answers_lose_nothing_and_must_still_be_better_than_each_baseline() -> None:
    mean = float(NDCG.mean())
    assert kept(judged(NDCG), popularity=mean - 0.01, item_knn=mean) == [True, False, True, True]


@pytest.mark.parametrize(
    ("noise", "lost", "passed"),
    [
        pytest.param(0.0, 0.02, False, id="every user loses 2 %"),
        pytest.param(0.0, 0.005, True, id="every user loses half a per cent"),
        pytest.param(0.5, 0.02, True, id="users gain and lose, 2 % on the whole"),
    ],
)
def test_a_loss_of_ndcg_counts_where_it_is_more_than_chance(noise: float, lost: float, passed: bool) -> None:
    shift = np.resize([noise, -noise], USERS)
    assert kept(judged(NDCG * (1 - lost) + shift)) == [True, passed]


@pytest.mark.parametrize("broken", ["like", "rating"])
def test_scores_that_are_not_numbers_miss_the_gate_which_names_the_recipe(broken: str) -> None:
    chosen = judged(NDCG)
    if broken == "like":
        chosen.like[:] = np.where(np.arange(LIKE.size) == 7, np.nan, LIKE)
    else:  # the ratings' are not kept; the figures say that something was no number
        chosen = replace(chosen, quality=dict.fromkeys(chosen.quality, math.nan))
    checks = checks_of(chosen, {})
    assert [(check.passed, check.value) for check in checks] == [(False, "nan")] * 2
    assert all("that int8 loses on test" in check.figure for check in checks)
    lost = loss_on_test(chosen, judged(NDCG), PROTOCOL)
    assert all(math.isnan(loss.low) and math.isnan(loss.high) for loss in lost.values())


def test_a_recipe_that_spoils_the_ranker_misses_its_floor() -> None:
    assert kept(judged(NDCG, RANDOM.permutation(LIKE))) == [False, True]


SPOILT, BROKEN = RANDOM.permutation(LIKE), np.full_like(LIKE, np.nan)
ON_VALID = [
    Measured(recipe=recipe, bytes=size, latency_ratio=ratio, auc_loss=0.0, ndcg_loss=0.0)
    for recipe, size, ratio in [
        ("fp32", 900, 1.0),
        ("int8", 300, 0.5),
        ("lean", 100, 0.7),
        ("fp16", 500, 0.9),
    ]
]
"""In the order of preference: int8, lean, fp16, fp32."""


def accepted(**like: np.ndarray) -> tuple[Accepted, list[str]]:
    """What is accepted where recipes answer `like` on test (else what fp32 does), and who was asked."""
    asked: list[str] = []

    def ask(recipe: str) -> Judged:
        asked.append(recipe)
        return judged(NDCG, like.get(recipe, LIKE), recipe)

    return accept(ON_VALID, ask, PROTOCOL, CompressionSettings(), "fp32"), asked


@pytest.mark.parametrize(
    ("spoilt", "released"),
    [
        pytest.param([], "int8", id="the preferred one keeps its floor"),
        pytest.param(["int8"], "lean", id="the preferred one misses it"),
        pytest.param(["lean"], "int8", id="one that nobody asks"),
        pytest.param(["int8", "lean"], "fp16", id="two in turn"),
        pytest.param(["int8", "lean", "fp16"], "fp32", id="all of them"),
    ],
)
def test_the_first_that_keeps_its_floor_on_test_is_released(spoilt: list[str], released: str) -> None:
    found, asked = accepted(**dict.fromkeys(spoilt, SPOILT))
    assert found.choice.chosen == released == tuple(found.lost)[-1]
    order = ["int8", "lean", "fp16", "fp32"]
    before = order[: order.index(released)]
    assert found.set_aside == tuple(before)
    assert asked == ["fp32", *(name for name in (*before, released) if name != "fp32")]
    verdicts = {verdict.recipe: verdict for verdict in found.choice.verdicts}
    for name in before:
        assert verdicts[name].why_not is not None and verdicts[name].why_not.startswith("on test AUC falls")
        assert not verdicts[name].within_floor and f"{name} (on test AUC falls by" in found.choice.reason
    assert ("set aside" in found.choice.reason) == bool(before)
    assert ("no recipe is within the quality floor" in found.choice.reason) == (released == "fp32")


def test_a_loss_on_test_is_told_with_its_interval_and_floor() -> None:
    found, _ = accepted(int8=SPOILT)
    loss = found.lost["int8"]["auc_loss"]
    told = f"falls by {loss.value:.4f} (95 % interval {loss.low:.4f} to {loss.high:.4f}), floor 0.0010"
    assert f"preferred on valid, and set aside: int8 (on test AUC {told})" in found.choice.reason


def test_scores_that_are_not_numbers_set_a_recipe_aside_and_stop_the_uncompressed_form() -> None:
    found, _ = accepted(int8=BROKEN)
    assert (
        found.choice.chosen == "lean" and "int8 (on test its scores are not numbers)" in found.choice.reason
    )
    found, _ = accepted(fp32=BROKEN)
    checks = floor_checks(CompressionSettings(), "fp32", found.lost["fp32"])
    assert found.choice.chosen == "fp32" and not any(check.passed for check in checks)
    assert found.set_aside == () and "the scores of fp32 on test" in found.choice.reason
