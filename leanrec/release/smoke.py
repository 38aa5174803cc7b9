"""Ask the published release for recommendations, as a product would: Feast, then Triton over gRPC."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from leanrec.config import FeatureStoreSettings, ReleaseSettings
from leanrec.errors import DataError, FeatureStoreError, LeanRecError, ServingError
from leanrec.features.online import OnlineUsers
from leanrec.files import read_json, write_json
from leanrec.journal import step
from leanrec.release.promote import rollback, withdraw
from leanrec.release.recommendation import Recommendations
from leanrec.release.repository import ModelRepository
from leanrec.release.routing import Route, candidate_route, stable_route
from leanrec.release.state import ReleaseState
from leanrec.triton import TritonClient
from leanrec.triton.embedded_server import embedded_server
from leanrec.triton.load import percentiles

NUM_USERS = 3
NUM_ITEMS = 10
NUM_TIMED = 200


@step("smoke_test_release")
def smoke_test_release(
    release: ReleaseSettings,
    feature_store: FeatureStoreSettings,
    *,
    published: Path,
    events: Path,
    output: Path,
) -> dict[str, Any]:
    """Start Triton on the repository and let it recommend to the three users of most typical history.

    A candidate is asked under its own names. A release that fails, or whose test is stopped, is rolled back
    to the one before it, if there is one; a candidate is withdrawn.

    Args:
        release: where the repository is.
        feature_store: where the user rows are.
        published: the release JSON; its version must answer.
        events: the events table, from which the users are picked.
        output: file that gets latency_ms (p50, p95, p99 of `n` requests, one user each, one caller, gRPC),
            server, and users as `recommend_to` describes them.

    Raises:
        ServingError: Triton answers with another version, or recommends what cannot be right.
        FeatureStoreError: a user who has events is not in the online store.
    """
    version = int(read_json(published)["version"])
    try:
        result = _ask(release, feature_store, version, events)
    except BaseException as error:
        outcome = _take_back(Path(release.repository), version)
        if outcome and isinstance(error, LeanRecError):
            raise type(error)(f"{error}; {outcome}") from None
        raise
    write_json(output, result)
    return result


def _take_back(repository: Path, version: int) -> str | None:
    """Take `version` out of use where another one can answer; in words, what answers now."""
    state = ModelRepository(repository.absolute()).state()
    if state is None:
        return None
    reason = "the smoke test failed"
    if state.rollout and state.rollout.version == version:
        stable = withdraw(repository, reason, only=state.rollout)
        return f"the candidate is withdrawn, release {stable} goes on serving"
    if state.stable != version or state.previous is None:
        return None
    return f"release {rollback(repository, reason)} is stable again"


def _route_to(state: ReleaseState, version: int) -> Route:
    """How `version` is asked: under a candidate's names while it is one."""
    if state.rollout and state.rollout.version == version:
        return candidate_route(state.rollout)
    return stable_route(state)


def _ask(
    release: ReleaseSettings, feature_store: FeatureStoreSettings, version: int, events: Path
) -> dict[str, Any]:
    """The content of the smoke JSON."""
    users = OnlineUsers(feature_store)
    with (
        tempfile.TemporaryDirectory(prefix="leanrec-smoke-") as work,
        embedded_server(Path(release.repository), Path(work) / "announcement.json") as server,
        TritonClient(server.grpc) as triton,
    ):
        route = _route_to(ModelRepository(Path(release.repository).absolute()).required_state(), version)
        recommendations = Recommendations(Path(release.repository), users, triton, route)
        num_items = min(NUM_ITEMS, recommendations.spec.top_k)
        picked = typical_users(events, NUM_USERS)
        answers = [recommendations.to_user(user, num_items) for user in picked]
        for answer in answers:
            _check(answer, version, num_items)
        return {
            "latency_ms": _latency_ms(recommendations, users, picked),
            "server": {"version": version, "models": server.loaded()["models"], "grpc": server.grpc},
            "users": answers,
        }


def typical_users(events: Path, num_users: int) -> list[str]:
    """The users whose number of events is nearest to the median; ties go by user id."""
    counts = pq.read_table(events, columns=["user_id"])["user_id"].value_counts()
    if len(counts) == 0:
        raise DataError(f"{events}: it holds no event, so no user can be picked; ingest events first")
    sizes = counts.field("counts").to_numpy()
    distances = np.abs(sizes - np.median(sizes))
    names = pc.cast(counts.field("values"), "string").to_pylist()
    return [name for _, name in sorted(zip(distances.tolist(), names, strict=True))[:num_users]]


def _check(answer: dict[str, Any], version: int, num_items: int) -> None:
    user = answer["user"]
    if not answer["known"]:
        raise FeatureStoreError(f"user {user} has events but no row in the online store; materialize again")
    if answer["version"] != version:
        raise ServingError(
            f"clients that name no version get {answer['version']}, and {version} was published;"
            " another release came between, or `leanrec release status` shows why"
        )
    scores = [line["score"] for line in answer["recommendations"]]
    if len(scores) < num_items or not np.isfinite(scores).all() or scores != sorted(scores, reverse=True):
        raise ServingError(
            f"user {user}: {num_items} finite scores, best first, were asked for, and Triton sent {scores}"
        )


def _latency_ms(recommendations: Recommendations, users: OnlineUsers, picked: list[str]) -> dict[str, Any]:
    rows = [row for row in users.rows(picked) if row is not None]
    milliseconds = []
    for n in range(NUM_TIMED):
        clock = time.perf_counter()
        recommendations.answer(rows[n % len(rows)])
        milliseconds.append((time.perf_counter() - clock) * 1e3)
    return {**percentiles(milliseconds), "n": NUM_TIMED}
