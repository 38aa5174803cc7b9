from dataclasses import replace

import pytest

from leanrec.errors import ReleaseError
from leanrec.release.state import (
    ReleaseState,
    offered,
    promoted,
    pruned,
    published,
    published_as_candidate,
    rolled_back,
    stated_reason,
    withdrawn,
)


def state(**changes: object) -> ReleaseState:
    values = {"stable": 3, "previous": 2, "served": (2, 3), "versions": (1, 2, 3), "last": 3, **changes}
    return ReleaseState(**values)


def moves(s: ReleaseState) -> tuple:
    return s.stable, s.previous, s.served, s.versions


def test_the_first_release_is_stable_and_alone() -> None:
    assert moves(published(None, 1, keep=2, at="t")) == (1, None, (1,), (1,))


@pytest.mark.parametrize(
    ("before", "keep", "after"),
    [
        (state(), 5, (4, 3, (3, 4), (1, 2, 3, 4))),
        (state(), 2, (4, 3, (3, 4), (3, 4))),
        # After a rollback to 1 the failed 3 is not served again, and 1 is kept because it is served.
        (state(stable=1, previous=None, served=(1,)), 2, (4, 1, (1, 4), (1, 3, 4))),
    ],
)
def test_a_published_version_is_stable_beside_the_one_before(
    before: ReleaseState, keep: int, after: tuple
) -> None:
    assert moves(published(before, 4, keep=keep, at="t")) == after


def test_a_version_whose_tensors_differ_is_served_alone() -> None:
    assert published(state(), 4, keep=5, at="t", beside=False).served == (4,)


def test_rolling_back_serves_the_older_version_alone() -> None:
    assert moves(rolled_back(state(), at="t")) == (2, 1, (2,), (1, 2, 3))


def test_a_rollback_never_goes_to_a_candidate_that_was_withdrawn() -> None:
    first = published(None, 1, keep=9, at="t")
    refused = withdrawn(published_as_candidate(first, 2, keep=9, at="t", salt="s"), at="t", reason="slow")
    newest = published(published(refused, 3, keep=9, at="t"), 4, keep=9, at="t")
    once = rolled_back(newest, at="t")
    assert moves(once)[:2] == (3, 1)
    twice = rolled_back(once, at="t")
    assert moves(twice)[:2] == (1, None)


def test_a_rollback_never_goes_to_a_version_that_was_rolled_back() -> None:
    second = published(published(None, 1, keep=9, at="t"), 2, keep=9, at="t")
    fourth = published(published(rolled_back(second, at="t"), 3, keep=9, at="t"), 4, keep=9, at="t")
    assert moves(rolled_back(fourth, at="t"))[:2] == (3, 1)


def test_pruning_keeps_the_candidate_of_a_rollout() -> None:
    offered = published_as_candidate(state(), 4, keep=9, at="t", salt="s")
    grown = ReleaseState(**{**vars(offered), "versions": (1, 2, 3, 4, 5, 6)})
    assert pruned(grown, keep=1).versions == (2, 3, 4, 6)


@pytest.mark.parametrize("before", [state(previous=None), state(previous=9)])
def test_without_an_older_version_there_is_no_rollback(before: ReleaseState) -> None:
    with pytest.raises(ReleaseError, match="no version before it"):
        rolled_back(before, at="t")


@pytest.mark.parametrize(("version", "after"), [(1, (1, 3, (1,))), (2, (2, 3, (2,)))])
def test_an_older_version_is_promoted_alone_because_triton_prefers_the_highest(
    version: int, after: tuple
) -> None:
    assert moves(promoted(state(), version, at="t"))[:3] == after


def test_a_promoted_newer_version_stands_beside_the_one_before() -> None:
    back = rolled_back(state(), at="t")
    assert moves(promoted(back, 3, at="t"))[:3] == (3, 2, (2, 3))


@pytest.mark.parametrize(("version", "said"), [(9, "not in the repository"), (3, "stable already")])
def test_promotions_that_mean_nothing_are_refused(version: int, said: str) -> None:
    with pytest.raises(ReleaseError, match=said):
        promoted(state(), version, at="t")


def test_pruning_never_takes_what_is_served_or_what_a_rollback_needs() -> None:
    kept = pruned(state(stable=2, previous=1, served=(2,), versions=(1, 2, 3, 4, 5, 6)), keep=2)
    assert kept.versions == (1, 2, 5, 6)


def test_every_transition_is_remembered_with_its_time() -> None:
    after = rolled_back(published(published(None, 1, keep=2, at="a"), 2, keep=2, at="b"), at="c")
    assert [(h["at"], h["action"], h["from"], h["to"]) for h in after.history] == [
        ("a", "publish", None, 1),
        ("b", "publish", 1, 2),
        ("c", "rollback", 2, 1),
    ]
    assert ReleaseState.from_json(after.to_json()) == after


def test_a_state_goes_on_from_those_that_it_came_of_and_from_no_other() -> None:
    first = replace(published(None, 1, keep=3, at="t1"), generation=1)
    second = replace(published(first, 2, keep=3, at="t2"), generation=2)
    back = replace(rolled_back(second, at="t3"), generation=3)
    elsewhere = replace(promoted(second, 1, at="t4"), generation=3)
    assert back.goes_on_from(second)
    assert back.goes_on_from(back)
    assert not second.goes_on_from(back)
    assert not elsewhere.goes_on_from(back)
    assert not replace(elsewhere, generation=9).goes_on_from(back)


def test_a_state_written_before_there_were_generations_is_read() -> None:
    old = state().to_json()
    del old["generation"]
    assert ReleaseState.from_json(old) == state()


def test_every_transition_says_why() -> None:
    first = published(None, 1, keep=9, at="t")
    third = published(published(first, 2, keep=9, at="t"), 3, keep=9, at="t")
    offered_again = offered(promoted(rolled_back(third, at="t"), 3, at="t"), 1, at="t", salt="s")
    gone = rolled_back(offered_again, at="t", reason="it is too slow")
    last = published_as_candidate(gone, 4, keep=9, at="t", salt="s")
    assert [(line["action"], line["reason"]) for line in last.history] == [
        *[("publish", "published, stable at once")] * 3,
        ("rollback", "rolled back by hand"),
        ("promote", "promoted by hand"),
        ("candidate", "offered as a candidate"),
        ("withdraw", "it is too slow"),
        ("candidate", "published as a candidate"),
    ]


@pytest.mark.parametrize("text", ["", "  ", "two\nlines", "\x1b[31mred", "half \ud800", "x" * 501])
def test_a_reason_is_one_readable_line(text: str) -> None:
    with pytest.raises(ReleaseError, match=r"give one line of 1 to 500 that can$"):
        stated_reason(text)
    assert stated_reason(" Größe — für Zoë ") == "Größe — für Zoë"
