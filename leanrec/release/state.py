"""What a model repository should serve, as a value, and the decisions over it: pure functions.

Triton gives a client that names no version the highest one served. So the stable version must be the
highest served; the one before it may stay beside it only when its number is lower.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

from leanrec.errors import ReleaseError

MAX_HISTORY = 100
"""Transitions remembered."""
MAX_REASON = 500
"""Characters of the reason of a transition that somebody gives."""
WHY_BY_HAND = {"promote": "promoted by hand", "rollback": "rolled back by hand", "withdraw": "ended by hand"}
"""Action -> the reason where whoever decided gave none."""

Stage = Literal["candidate", "shadow", "canary"]
"""Loaded and asked by nobody; asked beside the stable one, its answers never returned; answering a share."""


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """A version on its way to become stable."""

    version: int
    stage: Stage
    percent: float = 0.0
    """Share of users, 0 to 100, that the candidate answers; 0 unless `stage` is canary."""
    shadow_percent: float = 0.0
    """Share of requests, 0 to 100, replayed to the candidate without being returned."""
    salt: str
    """What makes this rollout's choice of users another than the last one's."""
    started_at: str
    """ISO 8601, UTC."""
    since: str
    """When this stage began: ISO 8601, UTC."""

    def shown(self) -> str:
        """The stage in words."""
        return f"canary at {self.percent:g} %" if self.stage == "canary" else self.stage


@dataclass(frozen=True, kw_only=True)
class ReleaseState:
    """The content of release.json."""

    stable: int
    """The version that answers clients which name none."""
    previous: int | None
    """The version that a rollback goes to."""
    served: tuple[int, ...]
    """Versions that answer, ascending; the last one is `stable`."""
    versions: tuple[int, ...]
    """Versions kept, ascending."""
    last: int
    """The highest number ever given; numbers are never used twice."""
    generation: int = 0
    """How many changes led to this state: of two states of one repository, the greater is the newer."""
    rollout: Rollout | None = None
    """The version on its way to become stable, if any."""
    history: tuple[dict[str, Any], ...] = ()
    """Transitions, oldest first: at, action, from, to, reason; older code left some reasons null."""

    def to_json(self) -> dict[str, Any]:
        """The JSON value of release.json."""
        return asdict(self)

    def goes_on_from(self, earlier: ReleaseState) -> bool:
        """Whether this state came of `earlier` by changes made to it, as far as both remember."""
        if self.generation < earlier.generation:
            return False
        return not earlier.history or earlier.history[-1] in self.history or len(self.history) >= MAX_HISTORY

    def required_rollout(self) -> Rollout:
        """The rollout; a ReleaseError when there is none."""
        if self.rollout is None:
            raise ReleaseError("no version is being rolled out; `leanrec release rollout` begins it")
        return self.rollout

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The state in `value`; a ReleaseError when keys are missing or unknown."""
        try:
            fields = {**value}
            for key in ("served", "versions", "history"):
                fields[key] = tuple(fields[key])
            if fields.get("rollout") is not None:
                fields["rollout"] = Rollout(**fields["rollout"])
            return cls(**fields)
        except (KeyError, TypeError) as error:
            raise ReleaseError(
                f"release.json is not a release state ({error}); restore the file,"
                " or choose another repository"
            ) from None


def stated_reason(text: str) -> str:
    """`text`, somebody's reason of a transition; a ReleaseError unless it is one readable line."""
    reason = text.strip()
    if not reason.isprintable() or not 0 < len(reason) <= MAX_REASON:
        raise ReleaseError(
            f"the reason has {len(reason)} characters, of which {sum(not c.isprintable() for c in reason)}"
            f" cannot be printed; give one line of 1 to {MAX_REASON} that can"
        )
    return reason


def published(
    state: ReleaseState | None,
    version: int,
    *,
    keep: int,
    at: str,
    beside: bool = True,
    reason: str = "published, stable at once",
) -> ReleaseState:
    """The state in which `version` is new and stable, and at most `keep` versions are kept.

    With `beside`, the version that was stable stays served, so that clients which name it go on.
    """
    if state is None:
        return ReleaseState(
            stable=version,
            previous=None,
            served=(version,),
            versions=(version,),
            last=version,
            history=(_transition("publish", None, version, at, reason),),
        )
    refuse_during_rollout(state, f"publish version {version} as the stable one")
    return pruned(_moved(_grown(state, version), "publish", version, at, beside, reason), keep=keep)


def published_as_candidate(
    state: ReleaseState,
    version: int,
    *,
    keep: int,
    at: str,
    salt: str,
    reason: str = "published as a candidate",
) -> ReleaseState:
    """The state in which `version` is new and a candidate; the stable one stays what it is."""
    refuse_during_rollout(state, f"publish version {version}")
    return pruned(offered(_grown(state, version), version, at=at, salt=salt, reason=reason), keep=keep)


def offered(
    state: ReleaseState, version: int, *, at: str, salt: str, reason: str = "offered as a candidate"
) -> ReleaseState:
    """The state in which `version`, one of those kept, is a candidate that nobody is sent to yet."""
    refuse_during_rollout(state, f"roll out version {version}")
    _require_kept(state, version)
    if version == state.stable:
        raise ReleaseError(f"version {version} is stable already; nothing to roll out")
    rollout = Rollout(version=version, stage="candidate", salt=salt, started_at=at, since=at)
    return replace(
        state,
        rollout=rollout,
        history=_remembered(state, _transition("candidate", state.stable, version, at, reason)),
    )


def staged(
    state: ReleaseState,
    stage: Stage,
    *,
    percent: float = 0.0,
    shadow_percent: float = 0.0,
    at: str,
    reason: str,
) -> ReleaseState:
    """The state in which the candidate is in `stage`."""
    rollout = state.required_rollout()
    moved = replace(rollout, stage=stage, percent=percent, shadow_percent=shadow_percent, since=at)
    action = f"canary {percent:g} %" if stage == "canary" else stage
    transition = _transition(action, state.stable, rollout.version, at, reason)
    return replace(state, rollout=moved, history=_remembered(state, transition))


def accepted(state: ReleaseState, *, at: str, beside: bool = True, reason: str) -> ReleaseState:
    """The state in which the candidate is the stable version; `beside` as for `published`."""
    version = state.required_rollout().version
    return _moved(replace(state, rollout=None), "promote", version, at, beside, reason)


def withdrawn(state: ReleaseState, *, at: str, reason: str) -> ReleaseState:
    """The state without a candidate; its version is kept, and the stable one stays what it is."""
    version = state.required_rollout().version
    transition = _transition("withdraw", version, state.stable, at, reason)
    return replace(state, rollout=None, history=_remembered(state, transition))


def promoted(
    state: ReleaseState, version: int, *, at: str, beside: bool = True, reason: str = WHY_BY_HAND["promote"]
) -> ReleaseState:
    """The state in which `version`, one of those kept, is stable; `beside` as for `published`."""
    _require_kept(state, version)
    if version == state.stable:
        raise ReleaseError(f"version {version} is stable already; nothing to promote")
    if state.rollout and state.rollout.version == version:
        return accepted(state, at=at, beside=beside, reason=reason)
    refuse_during_rollout(state, f"promote version {version}")
    return _moved(state, "promote", version, at, beside, reason)


def rolled_back(state: ReleaseState, *, at: str, reason: str = WHY_BY_HAND["rollback"]) -> ReleaseState:
    """The state in which the version before the stable one is stable again, and served alone.

    During a rollout it is the candidate that goes, and the stable version stays.
    """
    if state.rollout:
        return withdrawn(state, at=at, reason=reason)
    if state.previous is None or state.previous not in state.versions:
        raise ReleaseError(
            f"version {state.stable} has no version before it to go back to; the repository keeps"
            f" {_shown(state.versions)}: promote one of them"
        )
    target = state.previous
    return replace(
        state,
        stable=target,
        previous=_before(state, target),
        served=(target,),
        history=_remembered(state, _transition("rollback", state.stable, target, at, reason)),
    )


def pruned(state: ReleaseState, *, keep: int) -> ReleaseState:
    """The state with the newest `keep` versions, those served, and the one that a rollback needs."""
    needed = {*state.versions[-keep:], *state.served, state.stable, state.previous}
    if state.rollout:
        needed.add(state.rollout.version)
    return replace(state, versions=tuple(version for version in state.versions if version in needed))


def _grown(state: ReleaseState, version: int) -> ReleaseState:
    return replace(state, versions=(*state.versions, version), last=version)


def _moved(
    state: ReleaseState, action: str, version: int, at: str, beside: bool, reason: str
) -> ReleaseState:
    stays = beside and state.stable < version
    return replace(
        state,
        stable=version,
        previous=state.stable,
        served=(state.stable, version) if stays else (version,),
        history=_remembered(state, _transition(action, state.stable, version, at, reason)),
    )


def _before(state: ReleaseState, version: int) -> int | None:
    """The older version that `version` took over from; None where it is not kept any more.

    Not simply the next older number: that may be a candidate that was withdrawn, or one rolled back.
    """
    for line in reversed(state.history):
        if line["to"] == version and line["action"] in ("publish", "promote"):
            before = line["from"]
            return before if before in state.versions and before < version else None
    older = [kept for kept in state.versions if kept < version]
    return older[-1] if older else None


def _require_kept(state: ReleaseState, version: int) -> None:
    if version not in state.versions:
        raise ReleaseError(
            f"version {version} is not in the repository, which keeps {_shown(state.versions)};"
            " name one of them"
        )


def refuse_during_rollout(state: ReleaseState | None, what: str) -> None:
    """A ReleaseError, which says that nobody may do `what`, while a version is being rolled out."""
    if state and state.rollout:
        raise ReleaseError(
            f"version {state.rollout.version} is being rolled out ({state.rollout.shown()}), so nobody may"
            f" {what}; let it end, or end it with `leanrec release abort`"
        )


def _remembered(state: ReleaseState, transition: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    return (*state.history, transition)[-MAX_HISTORY:]


def _transition(action: str, before: int | None, after: int, at: str, reason: str) -> dict[str, Any]:
    return {"at": at, "action": action, "from": before, "to": after, "reason": reason}


def _shown(versions: tuple[int, ...]) -> str:
    return ", ".join(map(str, versions)) or "none"
