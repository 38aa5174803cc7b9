"""What the repository wants served, followed by looking at release.json, and the catalogues to answer with.

A release is used only when its catalogue is in memory, and becomes the stable one here when Triton answers
it: an answer is put together from one version from its first tensor to its last title.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from leanrec.errors import LeanRecError
from leanrec.files import read_json
from leanrec.release.catalogue import Catalogue
from leanrec.release.repository import RELEASE_FILE, ModelRepository
from leanrec.release.requests import SPEC, read_spec
from leanrec.release.routing import CANDIDATES, STABLE, Route, lately_stable, route_for, shadow_route_for
from leanrec.release.state import ReleaseState
from leanrec.schema import MODELS, RECOMMENDER, ModelSpec
from leanrec.triton.async_client import AsyncTritonClient
from serving.gateway.api import Stage
from serving.gateway.faults import FaultError

RETRY_S = 1.0
"""Seconds after which a release that could not be read is tried again."""
LATELY = timedelta(minutes=5)
"""How long Triton may still serve a release that was stable: longer than it takes to load the next one."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Release:
    """Everything of one version that an answer needs besides the model."""

    version: int
    spec: ModelSpec
    catalogue: Catalogue
    attributes: dict[str, list[str]]
    """Attribute -> its values; the value of index i + 1 stands at position i."""

    @classmethod
    def load(cls, repository: ModelRepository, version: int) -> Release:
        """Read `version`; a LeanRecError or OSError when it is not whole."""
        folder = repository.release_folder(version)
        release = cls(
            version=version,
            spec=read_spec(folder / SPEC),
            catalogue=Catalogue.load(repository.version_folder(RECOMMENDER, version)),
            attributes=read_json(folder / "vocabulary" / "attributes.json"),
        )
        # Computed now and kept, so that no request waits for them.
        release.catalogue.popular(1)
        release.catalogue.index_of  # noqa: B018
        release.catalogue.frequent_categories  # noqa: B018
        return release


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """A release to ask, and under which names Triton serves it."""

    release: Release
    stage: Stage
    models: Mapping[str, str]
    is_older: bool = False
    """Whether it was stable lately; asked where Triton does not serve what is stable now."""


class Releases:
    """The state of the repository as this gateway serves it; used from one event loop."""

    state: ReleaseState
    stable: Release
    """What users get: the newest stable release that Triton answers."""

    def __init__(self, repository: Path, triton: AsyncTritonClient, follow_s: float) -> None:
        self._repository = ModelRepository(Path(repository).absolute())
        self._triton = triton
        self._follow_s = follow_s
        self._loaded: dict[int, Release] = {}
        self._stamp: tuple[int, int, int] | None = None
        self._following: asyncio.Task[None] | None = None
        self._unread, self._read_again_at = False, 0.0
        """Whether a release that may answer could not be read, and when it is tried again."""
        self._older: list[Target] = []
        """Releases that were stable lately, the latest first."""
        self._before: ReleaseState | None = None
        """The state in which what is stable now was a candidate, until Triton answers it under that name."""

    async def start(self) -> None:
        """Load what is served and begin to follow. A LeanRecError when there is no release to serve."""
        self._stamp = self._stamp_now()
        self.state = await asyncio.to_thread(self._repository.required_state)
        self.stable = await asyncio.to_thread(Release.load, self._repository, self.state.stable)
        self._loaded[self.stable.version] = self.stable
        await self._load()
        self._following = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Cease to follow."""
        if self._following:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following

    def targets(self, user_pseudonym: str) -> list[Target]:
        """Where to ask for this user, in order: the candidate if it is his, then the stable release.

        A candidate that has just become stable keeps its users while Triton takes it over: first under its
        old names, then under the stable ones. Last come releases that were stable lately: where one change
        follows another, Triton may still be on its way to, or just be leaving, what nobody wants any more.
        """
        candidate = list(self._candidate(route_for(self._before or self.state, user_pseudonym)))
        stable = self._stable_targets()
        older = [target for target in self._older if target.release not in [t.release for t in stable]]
        return candidate + (stable[::-1] if candidate and self._before else stable) + older

    def shadow(self, request_id: str) -> Target | None:
        """The candidate, where it shall answer this request too, unseen."""
        return next(self._candidate(shadow_route_for(self.state, request_id)), None)

    def pinned(self, version: int) -> list[Target]:
        """This release alone; a FaultError when it does not answer."""
        rollout = self.state.rollout
        if rollout and rollout.version == version and version in self._loaded:
            return [Target(release=self._loaded[version], stage="candidate", models=CANDIDATES)]
        for target in self._stable_targets():
            if target.release.version == version:
                return [target]
        if version in self.state.served and version in self._loaded:
            return [_stable(self._loaded[version])]
        if version in self.state.versions:
            served = ", ".join(str(number) for number in self.state.served)
            raise FaultError(
                409, f"release {version} is kept and does not answer now; answering: {served}, or promote it"
            )
        kept = ", ".join(str(number) for number in self.state.versions)
        raise FaultError(404, f"release {version} is not there; kept are {kept}")

    async def answering(self) -> dict[str, list[int]]:
        """The versions of each model that every Triton replica which can be reached answers now."""
        asked = [(model, version) for model in MODELS for version in self.state.served]
        rollout = self.state.rollout
        if rollout:
            asked += [(name, rollout.version) for name in CANDIDATES.values()]
        ready = await asyncio.gather(*(self._triton.are_ready(*question) for question in asked))
        models: dict[str, list[int]] = {}
        for (model, version), replicas in zip(asked, ready, strict=True):
            models.setdefault(model, [])
            if _everywhere(replicas):
                models[model].append(version)
        return models

    async def is_answering(self) -> bool:
        """Whether some replica answers the stable release now."""
        return any(await self._triton.are_ready(RECOMMENDER, self.stable.version))

    def _candidate(self, route: Route | None) -> Iterator[Target]:
        if route and route.stage == "candidate" and route.version in self._loaded:
            yield Target(release=self._loaded[route.version], stage="candidate", models=route.models)

    def _stable_targets(self) -> list[Target]:
        """The stable release; while another is about to be, that one too, should the first be gone."""
        wanted = self._loaded.get(self.state.stable, self.stable)
        return [_stable(self.stable)] + ([_stable(wanted)] if wanted is not self.stable else [])

    async def _follow(self) -> None:
        pause = self._follow_s
        while True:
            await asyncio.sleep(pause)
            pause = self._follow_s
            try:
                await self._look()
            except Exception as error:  # one that ended this task would end every rollback here, unseen
                trace = None if isinstance(error, LeanRecError | OSError) else error
                _log.error(
                    "the repository cannot be followed, what was read before stays: %s", error, exc_info=trace
                )
                pause = RETRY_S

    async def _look(self) -> None:
        stamp = self._stamp_now()
        if stamp != self._stamp:
            before, self.state = self.state, await asyncio.to_thread(self._repository.required_state)
            if before.rollout and before.rollout.version == self.state.stable:
                self._before = before
            await self._load()
            self._stamp = stamp
        elif self._loaded.keys() - self._wanted() or (
            self._unread and time.monotonic() >= self._read_again_at
        ):
            await self._load()
        if self.stable.version != self.state.stable and self.state.stable in self._loaded:
            wanted = self.state.stable
            ready = await asyncio.gather(*(self._triton.are_ready(model, wanted) for model in MODELS))
            if all(map(_everywhere, ready)):
                self.stable = self._loaded[wanted]
        if self.stable.version == self.state.stable:
            self._before = None

    async def _load(self) -> None:
        """Have the catalogue of every release that may answer, and of no other.

        One that cannot be read keeps none but itself from answering; it is tried again at the next look.
        """
        wanted = self._wanted()
        self._unread = False
        for version in sorted(wanted - self._loaded.keys()):
            try:
                self._loaded[version] = await asyncio.to_thread(Release.load, self._repository, version)
            except (LeanRecError, OSError) as error:
                self._unread = True
                self._read_again_at = time.monotonic() + RETRY_S
                _log.error("release %d does not answer here, for it cannot be read: %s", version, error)
        for version in self._loaded.keys() - wanted:
            del self._loaded[version]
        self._older = [
            replace(_stable(self._loaded[version]), is_older=True)
            for version in self._lately()
            if version in self._loaded
        ]

    def _wanted(self) -> set[int]:
        """The versions that may answer."""
        state = self.state
        wanted = {*state.served, state.stable, self.stable.version, *self._lately()}
        return wanted | {state.rollout.version} if state.rollout else wanted

    def _lately(self) -> tuple[int, ...]:
        return lately_stable(self.state, datetime.now(UTC) - LATELY)

    def _stamp_now(self) -> tuple[int, int, int] | None:
        try:
            status = (self._repository.path / RELEASE_FILE).stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size


def _everywhere(replicas: list[bool | None]) -> bool:
    """Whether all replicas are ready; one that does not answer at all has no say."""
    return any(replicas) and False not in replicas


def _stable(release: Release) -> Target:
    return Target(release=release, stage="stable", models=STABLE)
