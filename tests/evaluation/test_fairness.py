"""Popularity bias, exposure by item group and AUC by user group, each counted by hand."""

import math

import numpy as np
import pytest

from leanrec.config import EvaluationSettings
from leanrec.errors import DataError
from leanrec.evaluation.bootstrap import Interval
from leanrec.evaluation.fairness import (
    GroupAuc,
    auc_by_group,
    decide_fairness,
    popularity_lift,
    relative_exposure,
)

POPULARITY = np.array([0.0, 100.0, 10.0, 1.0])
LIFT, EXPOSURE, GAP = (
    "popularity lift of the lists",
    "exposure of tail items per like, over that of head items",
    "AUC gap between the groups of gender",
)
SETTINGS = EvaluationSettings(max_popularity_lift=2.0, min_tail_exposure=0.5, max_auc_gap=0.1)


@pytest.mark.parametrize(
    ("lists", "taken_up", "lift"),
    [
        ([[2, 3]], [[2, 3]], 1.0),
        ([[1, 0]], [[2]], 10.0),  # an empty place is not shown
        ([[2, 0], [3, 0]], [[1], [2]], 11 / 110),
        ([[0, 0]], [[1]], math.nan),  # nothing was shown
        ([[1, 2]], [[]], None),  # nobody took anything up: nothing to compare with
    ],
)
def test_popularity_lift(lists, taken_up, lift):
    wanted = [np.array(items, dtype=np.int64) for items in taken_up]
    assert popularity_lift(np.array(lists), wanted, POPULARITY) == pytest.approx(lift, nan_ok=True)


@pytest.mark.parametrize(
    ("lists", "relevant", "exposure"),
    [
        ([[3, 1], [1, 3]], [[3], [1]], 1.0),  # as much room for each like
        ([[1, 3]], [[1, 3]], 1 / np.log2(3)),  # second place: less is seen
        ([[1, 2]], [[1, 3]], 0.0),  # the group is never shown
        ([[1, 3]], [[1]], None),  # nobody likes the group: it has no merit to be shown by
        ([[1, 3]], [[3]], None),  # nobody likes anything else
        ([[3, 3]], [[1, 3]], math.nan),  # nothing else is shown
    ],
)
def test_exposure_of_a_group_for_each_like_of_it(lists, relevant, exposure):
    group = np.array([False, False, False, True])
    wanted = [np.array(items) for items in relevant]
    assert relative_exposure(np.array(lists), wanted, group) == pytest.approx(exposure, nan_ok=True)


def test_auc_by_group_names_groups_that_are_too_small():
    random = np.random.default_rng(0)
    user = np.repeat(np.arange(40), 5)
    group = np.where(user < 20, 1, np.where(user < 38, 2, 0))
    liked = random.uniform(size=200) < 0.5
    like = np.where(group == 1, liked, random.uniform(size=200)).astype(float)
    unknown, first, second = auc_by_group(liked, like, group, user, ["unknown", "f", "m"], min_users=10)
    assert (unknown.num_users, unknown.auc) == (2, None)
    assert first.auc.value == 1.0 and second.auc.value < 0.8
    with pytest.raises(DataError, match="not numbers"):
        auc_by_group(liked, np.full(200, np.nan), group, user, ["unknown", "f", "m"], min_users=10)


def _group(name: str, low: float, high: float) -> GroupAuc:
    return GroupAuc(group=name, num_users=50, auc=Interval(value=(low + high) / 2, low=low, high=high))


@pytest.mark.parametrize(
    ("lift", "exposure", "groups", "missed"),
    [
        (1.0, 1.0, [_group("f", 0.7, 0.72), _group("m", 0.71, 0.73)], []),
        (2.1, 1.0, [], [LIFT]),
        (1.0, 0.4, [], [EXPOSURE]),
        (math.nan, math.nan, [], [LIFT, EXPOSURE]),
        (None, None, [], []),  # the data cannot tell
        (1.0, 1.0, [_group("f", 0.5, 0.52), _group("m", 0.7, 0.72)], [GAP]),
        (1.0, 1.0, [_group("f", 0.4, 0.65), _group("m", 0.7, 0.72)], []),  # may be chance
        (1.0, 1.0, [_group("f", 0.5, 0.6), GroupAuc(group="m", num_users=3, auc=None)], []),
    ],
)  # fmt: skip
def test_the_gate(lift, exposure, groups, missed):
    checks = decide_fairness(SETTINGS, lift, exposure, {"gender": groups} if groups else {})
    assert [check.figure for check in checks if not check.passed] == missed


def test_a_group_of_which_little_is_known_does_not_hide_a_gap_between_two_others():
    low, high = _group("f", 0.6, 0.62), _group("m", 0.8, 0.82)
    for groups in ([low, high], [low, _group("x", 0.7, 0.98), high], [_group("x", 0.3, 0.75), high, low]):
        check = decide_fairness(SETTINGS, 1.0, 1.0, {"gender": groups})[-1]
        assert not check.passed
        assert check.value == pytest.approx(0.2)
        assert "0.18 to 0.22; m 0.8100, f 0.6100" in check.detail


def test_one_group_alone_has_no_gap_and_the_line_says_so():
    checks = decide_fairness(SETTINGS, 1.0, 1.0, {"gender": [_group("f", 0.5, 0.6)]})
    assert checks[-1].passed and checks[-1].value == "not judged"
