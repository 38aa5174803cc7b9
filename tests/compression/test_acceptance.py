"""The chosen recipe's gate: strict against baselines, and a loss counts where it is more than chance."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from leanrec.compression.acceptance import Judged, decide
from leanrec.config import CompressionSettings

USERS = 400
RANDOM = np.random.default_rng(0)
LIKED = RANDOM.random(USERS * 5) < 0.5
LIKE = np.where(LIKED, 0.6, 0.4) + RANDOM.normal(0, 0.2, LIKED.size)
PROTOCOL = SimpleNamespace(pairs=SimpleNamespace(liked=LIKED, user=np.repeat(np.arange(USERS), 5)))
NDCG = RANDOM.random(USERS)


def judged(ndcg: np.ndarray, like: np.ndarray = LIKE) -> Judged:
    positive, negative = like[LIKED], like[~LIKED]
    auc = float((positive[:, None] > negative[None]).mean())
    return Judged(
        recipe="int8", quality={"auc": auc, "ndcg@10": float(ndcg.mean())}, ndcg=ndcg, like=like.copy()
    )


def kept(chosen: Judged, **baselines: float) -> list[bool]:
    checks, _ = decide(CompressionSettings(), chosen, judged(NDCG), PROTOCOL, baselines)
    return [check.passed for check in checks]


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
    checks, intervals = decide(CompressionSettings(), chosen, judged(NDCG), PROTOCOL, {})
    assert [(check.passed, check.value) for check in checks] == [(False, "nan")] * 2
    assert all("that int8 loses on test" in check.figure for check in checks)
    assert intervals == {name: {"low": None, "high": None} for name in ("auc_loss", "ndcg_loss")}


def test_a_recipe_that_spoils_the_ranker_is_stopped() -> None:
    assert kept(judged(NDCG, RANDOM.permutation(LIKE))) == [False, True]
