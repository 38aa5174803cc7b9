"""An explanation says what taking a part away does, exactly: cases whose scores can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from leanrec.errors import ServingError
from leanrec.features.rows import UserRow, unknown_user
from leanrec.release.explanation import explain, parts_of

ROW = UserRow(
    user_index=7,
    user_attributes={"age": 2, "city": 0},
    user_statistics=np.array([3.0, 2.0, 4.0], np.float32),
    history=np.array([11, 12, 13]),
    history_ratings=np.array([5.0, 1.0, 4.0], np.float32),
    seen=np.array([11, 12, 13]),
)


def score(row: UserRow, items) -> np.ndarray:
    """Each event speaks for the items by its rating; being known and of an age counts too."""
    value = row.history_ratings.sum() + 4.0 * (row.user_index == 7) + 2.0 * (row.user_attributes["age"] == 2)
    return np.array([value if item == 1 else 1.0 for item in items])


def test_every_part_has_the_share_that_goes_with_it():
    effects = explain(ROW, [1], score)[0]
    found = {(e.kind, e.name or e.item_index): e.share for e in effects}
    assert found == {
        ("history", 11): pytest.approx(5 / 16),
        ("history", 12): pytest.approx(1 / 16),
        ("history", 13): pytest.approx(4 / 16),
        ("attribute", "age"): pytest.approx(2 / 16),
        ("identity", 0): pytest.approx(4 / 16),
        ("statistics", 0): 0.0,
    }
    assert effects[0].item_index == 11
    assert [abs(e.share) for e in effects] == sorted((abs(e.share) for e in effects), reverse=True)


def test_items_are_explained_each_by_itself():
    first, second = explain(ROW, [1, 2], score)
    assert any(effect.share for effect in first) and not any(effect.share for effect in second)


def test_a_part_may_speak_against_an_item():
    effects = explain(ROW, [1], lambda row, items: np.full(len(items), 1.0 + (row.user_index == 0)))[0]
    assert (effects[0].kind, effects[0].share) == ("identity", -1.0)


def test_what_is_taken_away_is_one_part_and_nothing_else():
    parts = {(part.kind, part.item_index): part.without for part in parts_of(ROW)}
    without = parts["history", 12]
    assert without.history.tolist() == [11, 13] and without.history_ratings.tolist() == [5.0, 4.0]
    assert without.seen.tolist() == ROW.seen.tolist() and without.user_index == 7
    assert len(parts) == 6, "an unknown attribute is no part"


def test_somebody_unknown_has_no_parts():
    assert parts_of(unknown_user()) == []
    assert explain(unknown_user(), [3], lambda *_: np.ones(1)) == [[]]


@pytest.mark.parametrize("bad", [float("nan"), 0.0, -1.0])
def test_a_score_without_shares_is_refused(bad):
    with pytest.raises(ServingError, match="cannot be explained by shares"):
        explain(ROW, [1], lambda *_: np.array([bad]))
