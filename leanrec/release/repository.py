"""The Triton model repository on a directory: immutable versions and one desired state.

A change is prepared in `<repository>/.staging` by whoever holds the repository. A publisher, whose copying
takes long, prepares in a `.staging-*` of its own and holds the repository only for what follows. Then the
change is put in place by renames, in this order:

    1. recommender/N and ranker/N      new folders that nothing refers to yet
    2. release.json                    from here on the change is decided
    3. <model>/config.pbtxt            from here on Triton, told to look again, serves it
    4. <model>_candidate/              comes or goes whole: the version being rolled out, hard-linked

A candidate is served under names of its own, for Triton gives a client that names no version the highest
one of a name. All that needs room on the disk happens before step 2. A writer that is killed
before step 2 has changed nothing that is served, and the next one undoes it; after step 2 the next one
finishes it. Versions that are kept no more are removed last. One that cannot be removed stops no command: a
warning says so, and the next writer tries again.
"""

from __future__ import annotations

import logging
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from leanrec.errors import LeanRecError, ReleaseError
from leanrec.files import fsync_tree, read_json, write_json, write_text
from leanrec.release.folders import LOCK, held, is_held, link, remove_set_aside, rename, set_aside
from leanrec.release.requests import SPEC, may_merge, read_spec
from leanrec.release.routing import CANDIDATES
from leanrec.release.state import ReleaseState
from leanrec.schema import MODELS, RECOMMENDER
from leanrec.triton.model_configuration import CONFIGURATION, INSTANCES, ModelConfiguration

RELEASE_FILE = "release.json"
MANIFEST = "manifest.json"
RELEASE_FOLDER = "release"
STAGING = ".staging"
PATIENCE_S = 5.0
"""Seconds that a writer waits for another one to end."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelRepository:
    """The folder at `path`, which Triton reads and which only this class changes."""

    path: Path

    def version_folder(self, model: str, version: int) -> Path:
        """Where Triton finds `version` of `model`."""
        return self.path / model / str(version)

    def release_folder(self, version: int) -> Path:
        """Manifest, item table, vocabularies and golden requests of `version`."""
        return self.version_folder(RECOMMENDER, version) / RELEASE_FOLDER

    def state(self) -> ReleaseState | None:
        """What should be served; None before the first release. A ReleaseError when the file was lost."""
        try:
            return ReleaseState.from_json(read_json(self.path / RELEASE_FILE))
        except FileNotFoundError:
            self._refuse_lost_state()
            return None
        except ValueError as error:
            raise ReleaseError(f"{self.path / RELEASE_FILE}: not JSON ({error}); restore the file") from None

    def required_state(self) -> ReleaseState:
        """The state; a ReleaseError when there is no release."""
        state = self.state()
        if state is None:
            raise ReleaseError(f"{self.path}: it holds no release; publish one with `leanrec run`")
        return state

    def configuration(self, model: str) -> ModelConfiguration | None:
        """The configuration that Triton reads for `model`; None when there is none, a ReleaseError when
        it cannot be read."""
        file = self.path / model / CONFIGURATION
        try:
            return ModelConfiguration.from_pbtxt(file.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except (ReleaseError, UnicodeDecodeError) as error:
            raise ReleaseError(
                f"{file}: {error}; mend it, or let the next publish, promote or rollback write it anew"
            ) from None

    def manifest(self, version: int) -> dict[str, Any]:
        """What `version` is made of; a ReleaseError when it is damaged or not held here."""
        file = self.release_folder(version) / MANIFEST
        try:
            manifest = read_json(file)
        except FileNotFoundError:
            state = self.state()
            if state is None or version not in state.versions:
                kept = ", ".join(map(str, state.versions)) if state else "none"
                raise ReleaseError(
                    f"{self.path}: version {version} is not there; versions kept: {kept}"
                ) from None
            fault = "missing"
        except ValueError as error:
            fault = f"not JSON ({error})"
        else:
            if names_files(manifest):
                return manifest
            fault = "it does not name the version's files"
        raise ReleaseError(
            f"{file}: {fault}; version {version} is damaged: restore the file, or go over to another version"
        )

    def is_settled(self) -> bool:
        """Whether the files agree: every model's configuration serves what release.json says."""
        state = self.state()
        if state is None:
            return not any((self.path / model / CONFIGURATION).exists() for model in MODELS)
        candidate = (state.rollout.version,) if state.rollout else None
        return all(
            self._versions_of(model) == state.served and self._versions_of(CANDIDATES[model]) == candidate
            for model in MODELS
        )

    @contextmanager
    def exclusive(self, wait_s: float | None = None) -> Iterator[None]:
        """Hold the repository against other writers; what a killed one left is settled first.

        Where the block raises, what it left is settled too. Raises a ReleaseError when another writer still
        holds the repository after `wait_s` seconds (PATIENCE_S).
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with held(self.path, PATIENCE_S if wait_s is None else wait_s):
            self.settle()
            try:
                yield
            except BaseException:
                with suppress(LeanRecError, OSError):  # the next writer does it
                    self.settle()
                raise

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A folder in which this process puts a version together while others may change the repository.

        It goes when the block ends; should this process be killed, the next writer removes it.
        """
        folder = self.path / f"{STAGING}-{secrets.token_hex(4)}"
        try:
            with ExitStack() as holding:
                with self.exclusive():  # nobody meets the folder before it is held
                    folder.mkdir()
                    holding.enter_context(held(folder, 0))
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def settle(self) -> None:
        """Finish or undo what a killed writer left; the caller holds the repository."""
        staging = self.path / STAGING
        state = self.state()
        if state is None:
            self._refuse_foreign()
        kept = state.versions if state else ()
        # The recommender's folder holds the manifest, which proves that the version is ours, so it goes last.
        for model in reversed(MODELS):
            for version in self.numbers(model):
                if version not in kept and self._is_ours(version):
                    set_aside(self.version_folder(model, version))
        for left in (staging, *self.path.glob(f"{STAGING}-*")):
            if left == staging or not is_held(left / LOCK):
                shutil.rmtree(left, ignore_errors=True)
        if state is not None:
            self._serve(state, staging)
            shutil.rmtree(staging, ignore_errors=True)
        remove_set_aside(self.path)

    def numbers(self, model: str) -> list[int]:
        """The numbers of the version folders that lie there for `model`, ascending."""
        folders = (self.path / model).glob("[0-9]*")
        return sorted(int(folder.name) for folder in folders if folder.name.isdigit())

    def stage(self) -> Path:
        """An empty folder in which a change is put together; the caller holds the repository."""
        staging = self.path / STAGING
        staging.mkdir()
        return staging

    def commit(self, state: ReleaseState, staged: Path, *, generation: int | None = None) -> ReleaseState:
        """Make `state` the desired one, with the version folders `<staged>/<model>` if there are any.

        It becomes the generation after the present one, or `generation` where it was made elsewhere; returned
        as written. `staged` comes from `stage` or `staging`; the caller holds the repository.
        """
        if generation is None:
            present = self.state()
            generation = present.generation + 1 if present else 1
        state = replace(state, generation=generation)
        publishes = (staged / RECOMMENDER).is_dir()
        stable = staged / RECOMMENDER if publishes else self.version_folder(RECOMMENDER, state.stable)
        write_json(staged / RELEASE_FILE, state.to_json())
        for model in MODELS:
            text = self._configuration_for(model, state, stable / RELEASE_FOLDER).to_pbtxt()
            write_text(staged / f"{model}.pbtxt", text)
            (self.path / model).mkdir(exist_ok=True)
        if publishes:
            for model in MODELS:
                fsync_tree(staged / model)
            for model in MODELS:
                rename(staged / model, self.version_folder(model, state.last))
        if state.rollout:
            for model in MODELS:
                self._stage_candidate(model, state, staged)
        rename(staged / RELEASE_FILE, self.path / RELEASE_FILE)
        for model in MODELS:
            rename(staged / f"{model}.pbtxt", self.path / model / CONFIGURATION)
        self._serve(state, staged)
        self.settle()
        return state

    def place(self, folder: Path, model: str, version: int) -> None:
        """Put a whole version of `model` in place; nothing refers to it before the next `commit`."""
        target = self.version_folder(model, version)
        if target.exists():
            raise ReleaseError(f"{target}: no release, but it has the number of one; move it away")
        fsync_tree(folder)
        (self.path / model).mkdir(exist_ok=True)
        rename(folder, target)

    def next_version(self) -> int:
        """The number that the next release gets; none is used twice, nor one that lies there already."""
        state = self.state()
        taken = {number for model in MODELS for number in self.numbers(model)}
        version = (state.last if state else 0) + 1
        while version in taken:
            version += 1
        return version

    def _configuration_for(self, model: str, state: ReleaseState, release: Path) -> ModelConfiguration:
        """The stable version's tensors (its `release` folder is given); tuned fields stay as they are.

        Batching is among those, except that requests are merged only if every version served allows it.
        """
        served = [release, *(self.release_folder(v) for v in state.served if v != state.stable)]
        fresh = ModelConfiguration.of_model(
            model, read_spec(release / SPEC), state.served, merge=all(may_merge(folder) for folder in served)
        )
        try:
            present = self.configuration(model)
        except ReleaseError:
            present = None
        if present is None:
            return replace(fresh, instance_count=INSTANCES[model])
        batching = fresh.dynamic_batching and (present.dynamic_batching or fresh.dynamic_batching)
        return replace(
            present,
            inputs=fresh.inputs,
            outputs=fresh.outputs,
            versions=fresh.versions,
            warmups=fresh.warmups,
            dynamic_batching=batching,
        )

    def _serve(self, state: ReleaseState, staged: Path) -> None:
        """Make the configurations and the candidate's folders say what `state` says, if they do not.

        `staged` may hold the candidate's folders already.
        """
        for model in MODELS:
            wanted = self._configuration_for(model, state, self.release_folder(state.stable))
            try:
                present = self.configuration(model)
            except ReleaseError as error:
                _log.warning("it is written anew, and what was tuned in it is lost: %s", error)
                present = None
            if present != wanted:
                write_text(self.path / model / CONFIGURATION, wanted.to_pbtxt())
        for model, name in CANDIDATES.items():
            candidate = (state.rollout.version,) if state.rollout else None
            if self._versions_of(name) == candidate:
                continue
            staged.mkdir(exist_ok=True)
            if (self.path / name).exists():
                set_aside(self.path / name)
            if state.rollout:
                if not (staged / name).exists():
                    self._stage_candidate(model, state, staged)
                rename(staged / name, self.path / name)

    def _stage_candidate(self, model: str, state: ReleaseState, staged: Path) -> None:
        """Lay out the candidate's folder of `model` in `staged`: its files are links to the version's."""
        name, version = CANDIDATES[model], state.required_rollout().version
        alone = replace(state, stable=version, served=(version,))
        configuration = self._configuration_for(model, alone, self.release_folder(version))
        shutil.copytree(
            self.version_folder(model, version),
            staged / name / str(version),
            ignore=shutil.ignore_patterns(RELEASE_FOLDER),
            copy_function=link,
        )
        write_text(staged / name / CONFIGURATION, replace(configuration, name=name).to_pbtxt())
        fsync_tree(staged / name)

    def _versions_of(self, model: str) -> tuple[int, ...] | None:
        """The versions that the configuration of `model` names; None without one, () when unreadable."""
        try:
            configuration = self.configuration(model)
        except ReleaseError:
            return ()
        return configuration.versions if configuration else None

    def _is_ours(self, version: int) -> bool:
        return (self.release_folder(version) / MANIFEST).exists()

    def _refuse_foreign(self) -> None:
        """A ReleaseError when version folders lie there, before the first release, that are not ours."""
        foreign = [v for model in MODELS for v in self.numbers(model) if not self._is_ours(v)]
        if foreign:
            raise ReleaseError(
                f"{self.path}: it holds version {foreign[0]}, which LeanRec did not publish;"
                " choose another folder"
            )

    def _refuse_lost_state(self) -> None:
        """A ReleaseError when releases lie there without the release.json that tells which of them serve.

        Before the first release, a writer that was killed may have left a version too; but it leaves its
        staging folder with it, and no configuration.
        """
        ours = [version for version in self.numbers(RECOMMENDER) if self._is_ours(version)]
        configured = any((self.path / model / CONFIGURATION).exists() for model in MODELS)
        began = any(self.path.glob(f"{STAGING}*")) and not configured
        if ours and not began and not (self.path / RELEASE_FILE).exists():
            raise ReleaseError(
                f"{self.path}: it holds version {', '.join(map(str, ours))} and no {RELEASE_FILE}, so nothing"
                " says which of them serves; put the file back (from a backup, or from the object store that"
                " `leanrec release push` wrote to), or move the folder away and publish anew"
            )


def path_of_file(name: str, version: int) -> str:
    """Below a repository, where the file of `version` lies that its manifest calls `name`, <model>/<path>."""
    model, _, rest = name.partition("/")
    return f"{model}/{version}/{rest}"


def names_files(manifest: Any) -> bool:
    """Whether `manifest` has the SHA-256 and the bytes of every file, as `publish` writes it.

    A file lies in the version's own folders: a manifest from elsewhere must not lead out of the repository.
    """
    files = manifest.get("files") if isinstance(manifest, dict) else None
    return isinstance(files, dict) and all(
        _lies_in_a_version(name) and isinstance(facts, dict) and facts.keys() >= {"sha256", "bytes"}
        for name, facts in files.items()
    )


def _lies_in_a_version(name: str) -> bool:
    model, *parts = name.split("/")
    return model in MODELS and bool(parts) and "\0" not in name and not {"", ".", ".."}.intersection(parts)


def now() -> str:
    """The present as ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
