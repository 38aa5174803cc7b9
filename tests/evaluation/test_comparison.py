"""Two releases on one held-out window: better, equal, worse, worse in a segment, not a number."""

import math
from dataclasses import replace

import numpy as np
import pytest

from leanrec.config import EvaluationSettings
from leanrec.evaluation.bootstrap import Interval
from leanrec.evaluation.comparison import (
    EVERYBODY,
    Answered,
    Comparison,
    compare,
    decide_comparison,
    loss_check,
)
from leanrec.evaluation.protocol import load_protocol

SETTINGS = EvaluationSettings(min_segment_users=5)


@pytest.fixture(scope="module")
def protocol(world):
    return load_protocol(world.features, world.training_set)


def answered(protocol, name: str, share_right: float, seed: int = 0) -> Answered:
    """Lists of which so many of the users find their liked items first; scores as right as that."""
    random = np.random.default_rng(seed)
    lists = np.argsort(random.uniform(size=(len(protocol.relevant), protocol.num_items - 1)), axis=1) + 1
    for row, wanted in enumerate(protocol.relevant):
        if random.uniform() < share_right:
            others = np.setdiff1d(lists[row], wanted)
            lists[row] = np.concatenate([wanted, others])
    noise = random.uniform(size=protocol.pairs.liked.size)
    like = share_right * protocol.pairs.liked + (1 - share_right) * noise
    return Answered(name=name, item_index=lists[:, :20], like=like)


@pytest.mark.parametrize(
    ("ours", "theirs", "passed"),
    [(0.9, 0.9, True), (0.9, 0.1, True), (0.1, 0.9, False)],
)
def test_what_is_better_or_equal_passes_and_what_is_worse_does_not(protocol, ours, theirs, passed):
    first, second = answered(protocol, "new", ours), answered(protocol, "old", theirs)
    found = compare(first, second, protocol, min_users=5)
    checks = decide_comparison(found, SETTINGS, "new", "old")
    assert all(check.passed for check in checks) is passed
    whole = {c.figure: c for c in found if c.part == EVERYBODY}
    assert (whole["ndcg@10"].ours >= whole["ndcg@10"].theirs) is passed
    assert whole["auc"].num_users == np.unique(protocol.pairs.user).size


def test_a_release_is_equal_to_itself(protocol):
    same = answered(protocol, "same", 0.5)
    for found in compare(same, same, protocol, min_users=5):
        if found.loss is not None:
            assert (found.loss.value, found.loss.low, found.loss.high) == (0, 0, 0)


def test_a_loss_that_one_segment_hides_from_the_whole_is_found(protocol):
    theirs = answered(protocol, "old", 1.0)
    found = {
        (c.part, c.figure): c for c in compare(_without_tail(theirs, protocol), theirs, protocol, min_users=5)
    }
    assert found["tail items", "ndcg@10"].loss.value > 0.9
    assert found["head items", "ndcg@10"].loss.value <= 0


def _without_tail(answers: Answered, protocol) -> Answered:
    from leanrec.evaluation.segments import head_items

    head = head_items(protocol)
    lists = np.array([np.r_[row[head[row]], np.zeros(20, int)][:20] for row in answers.item_index])
    return replace(answers, name="new", item_index=lists)


def test_too_few_users_are_not_judged_and_the_line_says_so(protocol):
    both = answered(protocol, "same", 0.5)
    found = compare(both, both, protocol, min_users=10_000)
    checks = decide_comparison(found, SETTINGS, "new", "old")
    assert {check.value for check in checks} == {"not judged"}
    assert all(check.passed and check.detail.endswith(" users are not enough") for check in checks)


def test_a_score_that_is_not_a_number_misses_the_gate(protocol):
    theirs = answered(protocol, "old", 0.5)
    broken = replace(theirs, like=np.where(np.arange(theirs.like.size) == 3, np.nan, theirs.like))
    found = compare(broken, theirs, protocol, min_users=5)
    checks = {c.figure: c for c in decide_comparison(found, SETTINGS, "new", "old")}
    check = checks["AUC that new loses against old, all users"]
    assert check.value == "nan" and not check.passed
    assert next(c for c in found if c.part == EVERYBODY and c.figure == "auc").to_json()["ours"] is None


@pytest.mark.parametrize(
    ("low", "high", "bound", "passed"),
    [
        (-0.1, -0.05, 0.0, True),  # a gain
        (-0.01, 0.03, 0.0, True),  # a loss that may be chance
        (0.0, 0.03, 0.0, True),
        (0.001, 0.03, 0.0, False),  # a loss for sure
        (0.001, 0.03, 0.01, True),  # within its bound
        (0.02, 0.03, 0.01, False),
        (math.nan, math.nan, 1.0, False),
    ],
)
def test_only_a_loss_beyond_its_bound_with_the_whole_interval_is_missed(low, high, bound, passed):
    interval = Interval(value=(low + high) / 2, low=low, high=high)
    assert loss_check("loss", interval, bound, "").passed is passed


@pytest.mark.parametrize(("part", "passed"), [(EVERYBODY, False), ("cold users", True)])
def test_segments_have_a_bound_of_their_own(part, passed):
    loss = Interval(value=0.05, low=0.04, high=0.06)
    line = Comparison(part=part, figure="ndcg@10", num_users=99, ours=0.1, theirs=0.1, loss=loss)
    (check,) = decide_comparison([line], SETTINGS, "new", "old")
    assert check.passed is passed and part in check.figure
