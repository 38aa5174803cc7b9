"""Take a candidate from stage to stage, or back.

All that the controller decides stands in release.json. Killed at any point it leaves a stage behind, which
goes on to answer whom it answers; the next `leanrec release rollout` goes on from there, with evidence
gathered afresh, `leanrec release abort` ends it, and so does the next run (abandoned.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from leanrec.config.rollout import RolloutSettings
from leanrec.errors import GateError, LeanRecError, ReleaseError
from leanrec.release.promote import accept, advance, offer, require_unchanged, withdraw
from leanrec.release.repository import ModelRepository
from leanrec.release.rollout.bounds import Missed, missed_at_the_end, missed_for_sure, num_judged
from leanrec.release.rollout.observation import GatewayMetrics
from leanrec.release.rollout.traffic import Traffic
from leanrec.release.rollout.watch import touch, watching
from leanrec.release.state import Rollout

Verify = Callable[[int], str | None]
"""Version -> what keeps it from being sent to anybody, if anything."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One look at a stage, for whoever watches."""

    rollout: Rollout
    seconds: float
    """Since the controller took up the stage."""
    stable: Traffic
    candidate: Traffic
    silent: list[str]
    """Gateways that did not answer."""

    @property
    def same_users(self) -> bool:
        """Whether both versions answered the same users, as they do in the shadow stage."""
        return self.rollout.stage == "shadow"


@dataclass(frozen=True, kw_only=True)
class Controller:
    """What a rollout needs: the repository, the bounds, the evidence, and the proof before it begins."""

    settings: RolloutSettings
    repository: Path
    metrics: GatewayMetrics
    verify: Verify
    share: Callable[[], None] = lambda: None
    """Called after every change, for replicas that do not see the repository itself."""

    def run(self, version: int | None, watch: Callable[[Observation], None]) -> int:
        """Roll `version` out, or go on with the rollout under way; returns it once it is stable.

        Raises:
            GateError: a bound was missed and the candidate was withdrawn; names the figure and the bound.
            ReleaseError: another rollout is under way, or there is nothing to roll out.
            ServingError: no gateway or no Triton answers; the candidate stays where it was.
        """
        store = ModelRepository(Path(self.repository).absolute())
        store.required_state()
        with watching(store.path):
            self._begin(store, version)
            self.share()
            self.metrics.require_one()
            while (rollout := store.required_state().rollout) is not None:
                reason = self._pass_stage(store, rollout, watch)
                self._go_on(rollout, reason)
                self.share()
        state = store.required_state()
        if version not in (None, state.stable):
            raise ReleaseError(
                f"the rollout of version {version} was ended by somebody else; see `leanrec release status`"
            )
        return state.stable

    def _begin(self, store: ModelRepository, version: int | None) -> None:
        rollout = store.required_state().rollout
        if rollout is None:
            if version is None:
                raise ReleaseError(
                    f"{store.path}: no version is being rolled out; name the one that shall be, of those that"
                    " `leanrec release status` lists"
                )
            offer(store.path, version)
        elif version not in (None, rollout.version):
            raise ReleaseError(
                f"version {rollout.version} is being rolled out ({rollout.shown()}) and nobody watches it, so"
                f" version {version} has to wait; go on with that one by `leanrec release rollout` without a"
                " version, or end it with `leanrec release abort`"
            )

    def _pass_stage(
        self, store: ModelRepository, rollout: Rollout, watch: Callable[[Observation], None]
    ) -> str:
        """Return once the candidate has passed its stage, with the reason; a GateError withdraws it."""
        if rollout.stage == "candidate":
            fault = self.verify(rollout.version)
            if fault:
                self._withdraw(rollout, fault)
            return "Triton answers the golden requests as the graphs do"
        self.metrics.look()
        self.metrics.start_over()
        began = time.monotonic()
        while True:
            time.sleep(self.settings.observe_every_s)
            seen = self._observe(store, rollout, began)
            watch(seen)
            num_requests = seen.candidate.requests
            num_answers = num_requests + seen.candidate.rank.requests
            may_end = self._may_end(seen)
            missed = self._missed(seen, at_the_end=may_end)
            if missed:
                self._withdraw(rollout, f"{rollout.shown()}: {missed} over {num_answers} requests")
            if may_end:
                return f"{rollout.shown()}: every bound was kept over {num_answers} requests"
            if seen.seconds > self.settings.stage_timeout_s:
                self._withdraw(
                    rollout,
                    f"{rollout.shown()}: {num_requests} requests within"
                    f" {self.settings.stage_timeout_s:g} s, bound {self.settings.min_requests}",
                )

    def _observe(self, store: ModelRepository, rollout: Rollout, began: float) -> Observation:
        """What both versions answered in the stage; a ReleaseError when somebody else moved the rollout."""
        state = store.required_state()
        require_unchanged(state, rollout)
        touch(store.path)
        seen = self.metrics.look()
        return Observation(
            rollout=rollout,
            seconds=time.monotonic() - began,
            stable=seen.get(state.stable, Traffic()),
            candidate=seen.get(rollout.version, Traffic()),
            silent=self.metrics.silent,
        )

    def _may_end(self, seen: Observation) -> bool:
        """Whether the stage lasted long enough and saw enough to be judged."""
        num_seen = num_judged(seen.candidate, same_users=seen.same_users)
        return num_seen >= self.settings.min_requests and seen.seconds >= self.settings.stage_s

    def _missed(self, seen: Observation, *, at_the_end: bool) -> Missed | None:
        """The first bound that the candidate misses, as far as it can be judged by now."""
        missed = missed_for_sure(self.settings, seen.stable, seen.candidate)
        if missed or not at_the_end:
            return missed
        return missed_at_the_end(self.settings, seen.stable, seen.candidate, same_users=seen.same_users)

    def _go_on(self, rollout: Rollout, reason: str) -> None:
        """Move the candidate to its next stage."""
        if rollout.stage == "candidate" and self.settings.shadow_percent:
            share = self.settings.shadow_percent
            advance(self.repository, "shadow", shadow_percent=share, reason=reason, only=rollout)
            return
        larger = [percent for percent in self.settings.canary_percents if percent > rollout.percent]
        if larger:
            advance(self.repository, "canary", percent=larger[0], reason=reason, only=rollout)
        else:
            accept(self.repository, reason, only=rollout)

    def _withdraw(self, rollout: Rollout, reason: str) -> None:
        stable = withdraw(self.repository, reason, only=rollout)
        try:
            self.share()
        except LeanRecError as error:
            reason += f"; not everybody was told: {error}"
        raise GateError(f"the candidate was withdrawn, version {stable} goes on serving; {reason}")
