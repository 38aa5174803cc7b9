"""Which version answers whom: pure functions of the repository's state, the same in every replica."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Literal

from leanrec.release.state import ReleaseState, Rollout
from leanrec.schema import MODELS

BUCKETS = 10_000
"""Users fall into so many buckets, so a share is exact to 0.01 %."""

CANDIDATES = MappingProxyType({model: f"{model}_candidate" for model in MODELS})
"""Triton's names of the candidate's models: others than the stable ones, so that a client which names no
version never meets a candidate."""

STABLE = MappingProxyType({model: model for model in MODELS})


@dataclass(frozen=True, kw_only=True)
class Route:
    """The version that answers a request, and what Triton calls its models."""

    version: int
    stage: Literal["stable", "candidate"]
    models: Mapping[str, str]
    """Our name of a model (`recommender`, `ranker`) -> Triton's."""


def route_for(state: ReleaseState, user_pseudonym: str) -> Route:
    """Who answers this user: always the same version while a stage lasts.

    A user whom the candidate answers at 1 % it answers at 10 % too.
    """
    rollout = state.rollout
    if rollout and rollout.stage == "canary" and _chosen(rollout.salt + user_pseudonym, rollout.percent):
        return candidate_route(rollout)
    return stable_route(state)


def shadow_route_for(state: ReleaseState, request_id: str) -> Route | None:
    """The candidate, when this request is one of the sample that is replayed to it; else None."""
    rollout = state.rollout
    if (
        rollout
        and rollout.stage != "candidate"
        and _chosen(rollout.salt + request_id, rollout.shadow_percent)
    ):
        return candidate_route(rollout)
    return None


def stable_route(state: ReleaseState) -> Route:
    """The route to the stable version."""
    return Route(version=state.stable, stage="stable", models=STABLE)


def candidate_route(rollout: Rollout) -> Route:
    """The route to the version being rolled out."""
    return Route(version=rollout.version, stage="candidate", models=CANDIDATES)


def lately_stable(state: ReleaseState, since: datetime) -> tuple[int, ...]:
    """Versions that are kept and were stable at some time after `since`, but are not now; the latest first.

    A Triton that loads one state after another may be at any of them, however fast they followed each other.
    """
    found: list[int] = []
    for line in reversed(state.history):
        if line["action"] not in ("publish", "promote", "rollback"):
            continue
        if datetime.fromisoformat(line["at"]) < since:
            break
        found.append(line["from"])
    return tuple(v for v in dict.fromkeys(found) if v != state.stable and v in state.versions)


def _chosen(text: str, percent: float) -> bool:
    bucket = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % BUCKETS
    return bucket < percent * BUCKETS / 100
