"""Put the chosen graphs into the model repository as version N+1."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import Any

from leanrec.config import ReleaseSettings
from leanrec.data.feedback import read_summary
from leanrec.data.vocabulary import Vocabularies, latest_vocabulary
from leanrec.errors import ReleaseError
from leanrec.files import fsync_tree, read_json, sha256_of, size_in_bytes, write_json
from leanrec.gates import GATE_FILE
from leanrec.journal import step
from leanrec.models.recommender import SPEC_FILE, WEIGHTS_FILE
from leanrec.release.judgement import JUDGEMENT_FILE
from leanrec.release.lineage import data_digest, facts_of
from leanrec.release.repository import MANIFEST, RELEASE_FOLDER, ModelRepository, now
from leanrec.release.requests import FRONT, same_tensors
from leanrec.release.starts import STARTS_FILE
from leanrec.release.state import (
    ReleaseState,
    published,
    published_as_candidate,
    refuse_during_rollout,
)
from leanrec.schema import MODELS, RECOMMENDER
from leanrec.training.warm_start import SUMS_FILE, WEIGHTS_FOLDER

GRAPH = "model.onnx"


@step("publish_release")
def publish_release(
    settings: ReleaseSettings,
    *,
    name: str,
    compressed: Path,
    features: Path,
    evaluation: Path,
    parity: Path,
    lineage: dict[str, Any],
    output: Path,
    model: Path | None = None,
    feedback: Path | None = None,
    judgement: Path | None = None,
) -> dict[str, Any]:
    """Publish version N+1 beside N, prune old ones, and write the release JSON at `output`.

    With the strategy "direct" N+1 is stable at once: a client that names no version gets it, and N stays
    served as long as both take the same tensors. With "canary" it is a candidate, which the rollout takes on.

    Args:
        settings: where the repository is and how many versions it keeps.
        name: name of the run's configuration.
        compressed: artifact with `front.json` and `chosen/`; its gate must have passed.
        features: artifact whose `vocabulary/` the release carries.
        evaluation: artifact with `evaluation.json`.
        parity: artifact with `parity.json`; its gate must have passed.
        lineage: what the release was made from (run, code version, data digest).
        model: artifact whose float32 weights the release carries, for a warm start of the next training.
        feedback: artifact that says how far the event log was read; the lineage carries it.
        judgement: artifact that holds the release against the one that serves; its gate must have passed.
        output: file that gets name, version, previous, repository, published_at, bytes, recipe.

    Raises:
        ReleaseError: another writer holds the repository, an artifact lacks a file, a gate did not
            pass, an index would change its meaning, or the disk is full; the releases are as they were.
    """
    for artifact, gate in ((compressed, "compression"), (parity, "parity")):
        if not read_json(Path(artifact) / GATE_FILE)["passed"]:
            raise ReleaseError(f"{artifact}: the {gate} gate did not pass; such graphs are not published")
    repository = ModelRepository(Path(settings.repository).absolute())
    refuse_second_candidate(settings)
    version = None
    try:
        with repository.staging() as staged:
            _copy_graphs(Path(compressed) / "chosen", staged)
            _copy_facts(
                staged, compressed=compressed, features=features, evaluation=evaluation, parity=parity
            )
            _copy_weights(model, staged)
            _copy_judgement(judgement, staged)
            newest = _refuse_other_meanings(repository, staged)
            facts = _facts(staged, features=features, feedback=feedback, lineage=lineage)
            for folder in MODELS:
                fsync_tree(staged / folder)
            # All that takes long is done; a rollback has to wait for what follows alone.
            with repository.exclusive():
                version = repository.next_version()
                if latest_vocabulary(repository.path) != newest:
                    _refuse_other_meanings(repository, staged)
                before, at = repository.state(), now()
                figures = {
                    "name": name,
                    "version": version,
                    "previous": before.stable if before else None,
                    "repository": str(repository.path),
                    "published_at": at,
                    "bytes": sum(size_in_bytes(staged / folder / GRAPH) for folder in MODELS),
                    "recipe": read_json(Path(compressed) / FRONT).get("chosen"),
                }
                new = staged / RECOMMENDER / RELEASE_FOLDER
                write_json(new / MANIFEST, {**figures, **facts})
                repository.commit(
                    _with_new(settings, repository, before, version, new, at, lineage.get("run")), staged
                )
    except OSError as error:
        raise ReleaseError(_what_failed(repository, version, error)) from None
    write_json(output, figures)
    return figures


def refuse_second_candidate(settings: ReleaseSettings) -> None:
    """A ReleaseError while a version is being rolled out; asked before what takes long."""
    state = ModelRepository(Path(settings.repository).absolute()).state()
    refuse_during_rollout(state, "publish another version")


def _with_new(
    settings: ReleaseSettings,
    repository: ModelRepository,
    before: ReleaseState | None,
    version: int,
    new: Path,
    at: str,
    run: str | None,
) -> ReleaseState:
    """The state after `before` that `version`, whose `release` folder is `new`, leads to."""
    strategy = f"(release.strategy: {settings.strategy})"
    # The name of its folder: whoever reads the history through the gateway need not know where it lies.
    by = f"published by run {Path(run).name}" if run else "published"
    if before is None:
        return published(None, version, keep=settings.keep, at=at, reason=f"{by}, stable at once: the first")
    if settings.strategy == "canary":
        return published_as_candidate(
            before,
            version,
            keep=settings.keep,
            at=at,
            salt=secrets.token_hex(8),
            reason=f"{by}, a candidate {strategy}",
        )
    beside = same_tensors([repository.release_folder(before.stable), new])
    return published(
        before,
        version,
        keep=settings.keep,
        at=at,
        beside=beside,
        reason=f"{by}, stable at once {strategy}",
    )


def _copy_graphs(chosen: Path, staged: Path) -> None:
    for model in MODELS:
        shutil.copytree(chosen / model, staged / model)
        if not (staged / model / GRAPH).is_file():
            raise ReleaseError(f"{chosen / model / GRAPH}: missing; compress the models again")


def _copy_facts(staged: Path, *, compressed: Path, features: Path, evaluation: Path, parity: Path) -> None:
    """Everything that explains the release and lets a client build requests for it."""
    release = staged / RECOMMENDER / RELEASE_FOLDER
    release.mkdir()
    chosen = Path(compressed) / "chosen"
    for file in sorted(p for p in chosen.iterdir() if p.is_file()):
        shutil.copyfile(file, release / file.name)
    shutil.copytree(Path(features) / "vocabulary", release / "vocabulary")
    shutil.copyfile(Path(compressed) / FRONT, release / FRONT)
    shutil.copyfile(Path(evaluation) / "evaluation.json", release / "evaluation.json")
    shutil.copyfile(Path(parity) / "parity.json", release / "parity.json")


def _copy_weights(model: Path | None, staged: Path) -> None:
    """The trained weights, their optimizers' state, what they start from; Triton reads none of it."""
    if model is None:
        return
    target = staged / RECOMMENDER / RELEASE_FOLDER / WEIGHTS_FOLDER
    target.mkdir()
    for name in (WEIGHTS_FILE, SPEC_FILE, SUMS_FILE, STARTS_FILE):
        if (Path(model) / name).exists():
            shutil.copyfile(Path(model) / name, target / name)


def _copy_judgement(judgement: Path | None, staged: Path) -> None:
    """How the release stands beside the one that served when it was made."""
    if judgement is None:
        return
    if not read_json(Path(judgement) / GATE_FILE)["passed"]:
        raise ReleaseError(f"{judgement}: the judgement gate did not pass; such graphs are not published")
    release = staged / RECOMMENDER / RELEASE_FOLDER
    shutil.copyfile(Path(judgement) / JUDGEMENT_FILE, release / JUDGEMENT_FILE)


def _refuse_other_meanings(repository: ModelRepository, staged: Path) -> Path | None:
    """A ReleaseError unless the staged vocabularies begin with those of the newest release, whose folder is
    returned."""
    newest = latest_vocabulary(repository.path)
    if newest is None:
        return None
    vocabularies = Vocabularies.load(staged / RECOMMENDER / RELEASE_FOLDER / "vocabulary")
    changed = vocabularies.first_change_since(Vocabularies.load(newest))
    if changed:
        raise ReleaseError(
            f"{repository.path}: the {changed} vocabulary of the new version does not go on from version "
            f"{newest.parts[-3]}'s, so an index would change its meaning; build the features again, from the "
            "newest release, with `leanrec run` or `leanrec features`"
        )
    return newest


def _facts(staged: Path, *, features: Path, feedback: Path | None, lineage: dict[str, Any]) -> dict[str, Any]:
    """What the manifest says of the staged version that does not depend on when it is put in place."""
    lineage = {"data": data_digest(features), **lineage}
    if feedback is not None:
        lineage["feedback"] = read_summary(feedback)
    files = {
        path.relative_to(staged).as_posix(): {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        for model in MODELS
        for path in sorted((staged / model).rglob("*"))
        if path.is_file()
    }
    return {**facts_of(staged / RECOMMENDER / RELEASE_FOLDER), "lineage": lineage, "files": files}


def _what_failed(repository: ModelRepository, version: int | None, error: OSError) -> str:
    """What became of a version that met `error`: one that was decided already is not undone but finished."""
    state = repository.state()
    if state is not None and version in state.versions:
        return (
            f"{repository.path}: version {version} is published, but not all of it could be put in place"
            f" ({_reason(error)}); mend that, and the next promote, rollback or publish finishes it"
        )
    serving = f"version {state.stable} goes on serving" if state else "nothing was published"
    return (
        f"{repository.path}: the new version could not be written ({_reason(error)}); {serving};"
        " mend that and publish again"
    )


def _reason(error: OSError) -> str:
    """What went wrong, and where; of the several faults that copying a folder reports, the first."""
    if isinstance(error, shutil.Error):
        faults = error.args[0]
        return str(faults[0][2]) if isinstance(faults, list) else str(faults)
    return f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
