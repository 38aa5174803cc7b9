"""Who answers whom."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leanrec.release.routing import lately_stable, route_for, shadow_route_for
from leanrec.release.state import ReleaseState, Rollout

ROLLOUT = Rollout(version=8, stage="canary", percent=10, salt="a", started_at="", since="")
STATE = ReleaseState(stable=7, previous=6, served=(6, 7), versions=(6, 7, 8), last=8, rollout=ROLLOUT)
USERS = [f"user {number}" for number in range(4000)]


def with_rollout(**changes: object) -> ReleaseState:
    return replace(STATE, rollout=replace(ROLLOUT, **changes))


@given(user=st.text(), low=st.floats(0, 100), high=st.floats(0, 100))
def test_a_user_of_the_candidate_stays_with_it_as_its_share_grows(user: str, low: float, high: float) -> None:
    low, high = sorted((low, high))
    if route_for(with_rollout(percent=low), user).stage == "candidate":
        assert route_for(with_rollout(percent=high), user).stage == "candidate"


@pytest.mark.parametrize("percent", [1, 10, 50])
def test_the_share_of_users_is_the_percent(percent: int) -> None:
    chosen = sum(route_for(with_rollout(percent=percent), user).version == 8 for user in USERS)
    assert chosen / len(USERS) == pytest.approx(percent / 100, abs=0.02)


def test_another_rollout_chooses_other_users() -> None:
    first, second = (
        {user for user in USERS if route_for(with_rollout(salt=salt), user).version == 8} for salt in "ab"
    )
    assert len(first & second) < len(first) / 2


@pytest.mark.parametrize(
    "rollout", [None, replace(ROLLOUT, stage="candidate"), replace(ROLLOUT, stage="shadow")]
)
def test_before_the_canary_everybody_gets_the_stable_version(rollout: Rollout | None) -> None:
    assert {route_for(replace(STATE, rollout=rollout), user).models["ranker"] for user in USERS} == {"ranker"}


def test_the_shadow_takes_its_sample_and_nothing_of_a_candidate_only_loaded() -> None:
    shadow = with_rollout(stage="shadow", shadow_percent=100)
    route = shadow_route_for(shadow, "1")
    assert route is not None
    assert route.models["recommender"] == "recommender_candidate"
    assert shadow_route_for(with_rollout(stage="candidate", shadow_percent=100), "1") is None
    assert shadow_route_for(replace(STATE, rollout=None), "1") is None


def test_a_state_with_a_rollout_survives_the_file() -> None:
    assert ReleaseState.from_json(STATE.to_json()) == STATE


def moved(minute: int, action: str, before: int | None, after: int) -> dict:
    return {"at": f"2031-05-01T12:{minute:02}:00+00:00", "action": action, "from": before, "to": after}


@pytest.mark.parametrize(
    ("since", "lately"),
    [(0, (6, 9, 7)), (5, (6, 9)), (6, (6,)), (7, ())],
)
def test_lately_stable_is_what_was_stable_since_and_is_kept_and_not_stable_now(
    since: int, lately: tuple[int, ...]
) -> None:
    history = (
        moved(0, "publish", None, 5),
        moved(1, "promote", 5, 6),
        moved(2, "publish", 6, 7),
        moved(3, "candidate", 7, 8),
        moved(3, "withdraw", 8, 7),
        moved(4, "promote", 7, 9),
        moved(5, "rollback", 9, 6),
        moved(6, "promote", 6, 10),
    )
    state = replace(STATE, stable=10, versions=(6, 7, 8, 9, 10), last=10, history=history)
    assert lately_stable(state, datetime(2031, 5, 1, 12, since, tzinfo=UTC)) == lately
