"""Put the chosen graphs into the model repository as version N+1."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from pathlib import Path
from typing import Any

from leanrec.config import ReleaseSettings
from leanrec.data.feedback import read_summary
from leanrec.data.vocabulary import Vocabularies, latest_vocabulary
from leanrec.errors import ReleaseError
from leanrec.files import read_json, sha256_of, size_in_bytes, write_json
from leanrec.gates import GATE_FILE
from leanrec.journal import step
from leanrec.models.recommender import SPEC_FILE, WEIGHTS_FILE
from leanrec.release.judgement import JUDGEMENT_FILE
from leanrec.release.lineage import data_digest, facts_of
from leanrec.release.repository import MANIFEST, RELEASE_FOLDER, ModelRepository, now
from leanrec.release.requests import FRONT, same_tensors
from leanrec.release.starts import STARTS_FILE
from leanrec.release.state import ReleaseState, published, published_as_candidate
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
    with repository.exclusive():
        before = repository.state()
        version, at = repository.next_version(), now()
        try:
            staged = repository.stage()
            _copy_graphs(Path(compressed) / "chosen", staged)
            _copy_facts(
                staged, compressed=compressed, features=features, evaluation=evaluation, parity=parity
            )
            if model is not None:
                _copy_weights(Path(model), staged)
            if judgement is not None:
                _copy_judgement(Path(judgement), staged)
            if feedback is not None:
                lineage = {**lineage, "feedback": read_summary(feedback)}
            _refuse_other_meanings(repository, version, staged)
            figures = {
                "name": name,
                "version": version,
                "previous": before.stable if before else None,
                "repository": str(repository.path),
                "published_at": at,
                "bytes": sum(size_in_bytes(staged / model / GRAPH) for model in MODELS),
                "recipe": read_json(Path(compressed) / FRONT).get("chosen"),
            }
            new = staged / RECOMMENDER / RELEASE_FOLDER
            lineage = {"data": data_digest(features), **lineage}
            _write_manifest(staged, {**figures, **facts_of(new), "lineage": lineage})
            if before is not None and settings.strategy == "canary":
                state = published_as_candidate(
                    before, version, keep=settings.keep, at=at, salt=secrets.token_hex(8)
                )
            else:
                beside = before is not None and same_tensors([repository.release_folder(before.stable), new])
                state = published(before, version, keep=settings.keep, at=at, beside=beside)
            repository.commit(state, staged)
        except OSError as error:
            _undo(repository)
            what = f"{repository.path}: version {version}"
            if _is_decided(repository, version):
                raise ReleaseError(
                    f"{what} is published, but not all of it could be put in place ({_reason(error)});"
                    " mend that, and the next promote, rollback or publish finishes it"
                ) from None
            raise ReleaseError(
                f"{what} could not be written ({_reason(error)}); {_serving(before)};"
                " mend that and publish again"
            ) from None
        except BaseException:
            _undo(repository)
            raise
    write_json(output, figures)
    return figures


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


def _copy_weights(model: Path, staged: Path) -> None:
    """The trained weights, their optimizers' state, what they start from; Triton reads none of it."""
    target = staged / RECOMMENDER / RELEASE_FOLDER / WEIGHTS_FOLDER
    target.mkdir()
    for name in (WEIGHTS_FILE, SPEC_FILE, SUMS_FILE, STARTS_FILE):
        if (model / name).exists():
            shutil.copyfile(model / name, target / name)


def _copy_judgement(judgement: Path, staged: Path) -> None:
    """How the release stands beside the one that served when it was made."""
    if not read_json(judgement / GATE_FILE)["passed"]:
        raise ReleaseError(f"{judgement}: the judgement gate did not pass; such graphs are not published")
    release = staged / RECOMMENDER / RELEASE_FOLDER
    shutil.copyfile(judgement / JUDGEMENT_FILE, release / JUDGEMENT_FILE)


def _refuse_other_meanings(repository: ModelRepository, version: int, staged: Path) -> None:
    """A ReleaseError unless the staged vocabularies begin with those of the newest release."""
    newest = latest_vocabulary(repository.path)
    if newest is None:
        return
    vocabularies = Vocabularies.load(staged / RECOMMENDER / RELEASE_FOLDER / "vocabulary")
    changed = vocabularies.first_change_since(Vocabularies.load(newest))
    if changed:
        raise ReleaseError(
            f"{repository.path}: the {changed} vocabulary of version {version} does not go on from version "
            f"{newest.parts[-3]}'s, so an index would change its meaning; build the features again, from the "
            "newest release, with `leanrec run` or `leanrec features`"
        )


def _write_manifest(staged: Path, facts: dict[str, Any]) -> None:
    files = {
        path.relative_to(staged).as_posix(): {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        for model in MODELS
        for path in sorted((staged / model).rglob("*"))
        if path.is_file()
    }
    write_json(staged / RECOMMENDER / RELEASE_FOLDER / MANIFEST, {**facts, "files": files})


def _undo(repository: ModelRepository) -> None:
    """Remove what was staged; where even that fails, the next command does it."""
    with contextlib.suppress(OSError):
        repository.settle()


def _is_decided(repository: ModelRepository, version: int) -> bool:
    """Whether release.json holds `version` already: then it is not undone but finished."""
    state = repository.state()
    return state is not None and version in state.versions


def _reason(error: OSError) -> str:
    """What went wrong, and where; of the several faults that copying a folder reports, the first."""
    if isinstance(error, shutil.Error):
        faults = error.args[0]
        return str(faults[0][2]) if isinstance(faults, list) else str(faults)
    return f"{error.strerror or error}: {error.filename}" if error.filename else str(error)


def _serving(before: ReleaseState | None) -> str:
    return f"version {before.stable} goes on serving" if before else "nothing was published"
