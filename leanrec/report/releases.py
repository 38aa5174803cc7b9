"""The repository's last releases: what they measured before they served, and what they measured since."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

NEWEST = 5
"""Releases shown beside each other."""
TRANSITIONS = 12
"""Transitions shown, newest first."""

Read = Callable[..., Any]
"""`read(folder, *name)`: the JSON there with NaN as None; None when it is not there or cannot be read."""


def read_releases(repository: Path, read: Read) -> dict[str, Any] | None:
    """The newest releases kept in `repository`, and its transitions, newest first; None without one.

    stable, rollout (without its salt), releases [{version, role, recipe, published_at, bytes, offline
    {ndcg@10 {value, low, high}, auc, ece}, online}], tuning (tuning.json, None where nothing was tuned),
    measured_online, history [{at, action, from, to, reason}].
    `online` is what online.json says of the version (docs/retraining.md), None where nothing.
    """
    state = read(repository, "release.json")
    if not isinstance(state, dict) or not state.get("versions"):
        return None
    online = (read(repository, "online.json") or {}).get("releases", {})
    rollout = state.get("rollout")
    newest = sorted(state["versions"], reverse=True)[:NEWEST]
    return {
        "stable": state.get("stable"),
        "rollout": rollout and {key: value for key, value in rollout.items() if key != "salt"},
        "releases": [
            {
                **_offline(repository, version, read),
                "role": _role(state, version),
                "online": online.get(str(version)),
            }
            for version in newest
        ],
        "tuning": read(repository, "tuning.json"),
        "measured_online": any(str(version) in online for version in newest),
        "history": list(reversed(state.get("history") or []))[:TRANSITIONS],
    }


def _offline(repository: Path, version: int, read: Read) -> dict[str, Any]:
    folder = repository / "recommender" / str(version) / "release"
    manifest = read(folder, "manifest.json") or {}
    evaluation = read(folder, "evaluation.json") or {}
    ranking = evaluation.get("ranking") or {}
    return {
        "version": version,
        **{key: manifest.get(key) for key in ("recipe", "published_at", "bytes")},
        "offline": {
            "ndcg@10": (evaluation.get("intervals") or {}).get("ndcg@10", {}).get("chain"),
            "auc": ranking.get("auc"),
            "ece": ranking.get("ece"),
        },
    }


def _role(state: dict[str, Any], version: int) -> str:
    """stable, the rollout's stage, served, or kept."""
    rollout = state.get("rollout") or {}
    if version == state.get("stable"):
        return "stable"
    if version == rollout.get("version"):
        stage = str(rollout.get("stage"))
        return f"{stage} at {rollout['percent']:g} %" if stage == "canary" else stage
    return "served" if version in state.get("served", ()) else "kept"
