"""Who answers whom."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leanrec.release.routing import route_for, shadow_route_for
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
