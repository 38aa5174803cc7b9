"""A copy of the model repository on S3-compatible storage: `push` writes it, `pull` makes a folder like it.

The stored layout is the folder's own. A change becomes visible in the same order as on a disk:

    1. recommender/N/... and ranker/N/...    objects that nothing refers to yet
    2. release.json                          from here on the change is decided
    3. <model>/config.pbtxt                  what Triton reads; `pull` makes it anew, so a stored one may lag

release.json is written conditionally (If-None-Match for the first, If-Match on the ETag that was read for a
later one), so that of two writers the second is refused; and only by a repository whose state goes on from
the stored one, so that a folder left behind undoes no rollback made elsewhere. The manifest of a version is
stored after all its other files: a version with a manifest is whole, and an interrupted push or pull is
finished by the next one.
Source: Amazon S3, "Conditional requests"; MinIO and Ceph know the same headers.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from leanrec.config import ReleaseSettings
from leanrec.errors import LeanRecError, ReleaseError
from leanrec.files import sha256_of
from leanrec.release.object_store import ObjectStore, manifest_name
from leanrec.release.repository import (
    MANIFEST,
    RELEASE_FILE,
    RELEASE_FOLDER,
    ModelRepository,
    path_of_file,
)
from leanrec.release.state import ReleaseState
from leanrec.schema import MODELS, RECOMMENDER
from leanrec.triton.model_configuration import CONFIGURATION


def push(repository: Path, store: ObjectStore) -> dict[str, Any]:
    """Make the store say what the repository says; answers stable, pushed and removed (versions).

    Raises a ReleaseError when a file is not as published, when the store holds releases or decisions that
    this repository does not know, or when another writer stores releases at the same time. A push that was
    broken off, or whose answer was lost, may be repeated. What the repository says when it begins is pushed;
    other writers need not wait for the upload.
    """
    local = ModelRepository(Path(repository).absolute())
    local.required_state()
    with local.exclusive():
        state = local.required_state()
        configurations = {model: (local.path / model / CONFIGURATION).read_bytes() for model in MODELS}
    before = store.state()
    if before is not None:
        _refuse_to_undo(store, before.state, state)
    pushed = [version for version in state.versions if _push_version(local, store, version)]
    body = json.dumps(state.to_json(), indent=2).encode()
    if before is None or before.state != state:
        store.put_if_unchanged(RELEASE_FILE, body, before.etag if before else None)
    for model, configuration in configurations.items():
        store.put(f"{model}/{CONFIGURATION}", configuration)
    removed = sorted(store.versions() - set(state.versions))
    for version in removed:
        store.remove(version)
    return {"stable": state.stable, "pushed": pushed, "removed": removed}


def push_where_stored(settings: ReleaseSettings) -> None:
    """Push where `release.object_store.url` names a store, for the replicas that follow it; else do nothing.

    Raises a ReleaseError that says how to repeat it: what was decided stands in the repository.
    """
    if not settings.object_store.url:
        return
    try:
        push(Path(settings.repository), ObjectStore(settings.object_store))
    except (ReleaseError, OSError) as error:
        raise ReleaseError(
            f"the change is made in {settings.repository} and did not reach {settings.object_store.url}, so "
            f"replicas that follow it serve what they did: {error}; repeat it with `leanrec release push`"
        ) from None


def pull(store: ObjectStore, repository: Path) -> dict[str, Any]:
    """Make the folder `repository` serve what the store says; answers stable and pulled (versions).

    Whole versions are put together beside and checked file by file, then everything is put in place as a
    publisher does it; so a Triton that follows the folder never sees half a version.
    """
    stored = store.state()
    if stored is None:
        raise ReleaseError(f"{store.url}: it holds no release; push one with `leanrec release push`")
    local = ModelRepository(Path(repository).absolute())
    pulled = []
    with local.exclusive():
        present = local.state()
        if present is not None:
            _refuse_to_lose(local, present, store, stored.state)
        staged = local.stage()
        for version in stored.state.versions:
            if _pull_version(store, local, staged / "pulled", version):
                pulled.append(version)
        for version in pulled:
            for model in MODELS:
                local.place(staged / "pulled" / model / str(version), model, version)
        local.commit(stored.state, staged, generation=stored.state.generation)
    return {"stable": stored.state.stable, "pulled": pulled, "etag": stored.etag}


def follow(
    store: ObjectStore,
    repository: Path,
    stopping: threading.Event,
    poll_s: float,
    tell: Callable[[str], None],
) -> None:
    """Pull whenever the stored release.json changes, until `stopping` is set.

    A store that fails or holds something damaged, or a disk that is full, is told of and asked again; what
    was pulled goes on serving.
    """
    seen: str | None = None
    while not stopping.is_set():
        try:
            if store.etag() != seen:
                found = pull(store, repository)
                seen = found["etag"]
                tell(f"{repository}: version {found['stable']} is stable; pulled {found['pulled'] or 'none'}")
        except (LeanRecError, OSError) as error:
            tell(f"problem: {error}")
        stopping.wait(poll_s)


def _refuse_to_undo(store: ObjectStore, stored: ReleaseState, ours: ReleaseState) -> None:
    """A ReleaseError when something stored was decided elsewhere and is not known here."""
    if stored.last > ours.last:
        raise ReleaseError(
            f"{store.url}: it holds version {stored.last} and this repository ends at {ours.last}, so "
            "another repository was pushed there; pull it, or name another prefix"
        )
    if ours != stored and not ours.goes_on_from(stored):
        raise ReleaseError(
            f"{store.url}: generation {stored.generation} is stored there, with version {stored.stable} "
            f"stable, and generation {ours.generation} of this folder does not go on from it, so a push "
            "would undo what was decided elsewhere; pull (into another folder, should this one be the "
            "newer) and decide again"
        )


def _refuse_to_lose(
    local: ModelRepository, present: ReleaseState, store: ObjectStore, stored: ReleaseState
) -> None:
    """A ReleaseError when the folder holds releases or decisions that a pull would overwrite."""
    if present.last > stored.last:
        raise ReleaseError(
            f"{local.path}: it goes on to version {present.last} and {store.url} ends at "
            f"{stored.last}; push this repository, or pull into another folder"
        )
    if present.generation > stored.generation:
        raise ReleaseError(
            f"{local.path}: its releases are of generation {present.generation}, those in {store.url} of "
            f"{stored.generation}; push this repository, or pull into another folder"
        )


def _push_version(local: ModelRepository, store: ObjectStore, version: int) -> bool:
    """Store what the store lacks of `version`; whether it lacked anything."""
    manifest = local.manifest(version)
    present = store.manifest(version)
    if present not in (None, manifest):
        raise ReleaseError(
            f"{store.url}: its version {version} is another one than this repository's; name another prefix"
        )
    stored = 0
    for name, facts in manifest["files"].items():
        path = path_of_file(name, version)
        file = local.path / path
        if store.has(path, facts["sha256"], facts["bytes"]):
            continue
        if not file.is_file() or sha256_of(file) != facts["sha256"]:
            raise ReleaseError(f"{file}: not as it was published, so it is not pushed; publish again")
        store.upload(path, file, facts["sha256"])
        stored += 1
    if present is None:
        store.put_if_unchanged(manifest_name(version), json.dumps(manifest).encode(), None)
    return stored > 0 or present is None


def _pull_version(store: ObjectStore, local: ModelRepository, staged: Path, version: int) -> bool:
    """Write `version` into `<staged>/<model>/<version>`, every file held against its digest.

    Answers False, and writes nothing, when the repository holds it already.
    """
    manifest = store.manifest(version)
    if manifest is None:
        raise ReleaseError(f"{store.url}: version {version} is not whole there; push again")
    if (local.release_folder(version) / MANIFEST).exists():
        if local.manifest(version) != manifest:
            raise ReleaseError(
                f"{local.path}: its version {version} is another one than in {store.url};"
                " pull into another folder"
            )
        return False
    for name, facts in manifest["files"].items():
        path = path_of_file(name, version)
        file = staged / path
        try:
            store.download(path, file)
        except FileNotFoundError:
            raise ReleaseError(f"{store.url}/{path}: missing; push again") from None
        if sha256_of(file) != facts["sha256"]:
            raise ReleaseError(
                f"{store.url}/{path}: its SHA-256 is not the manifest's; nothing was"
                " changed here, remove the object and push again"
            )
    target = staged / RECOMMENDER / str(version) / RELEASE_FOLDER / MANIFEST
    target.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return True
