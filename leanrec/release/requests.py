"""Which requests a release takes, read from its `release` folder."""

from __future__ import annotations

from pathlib import Path

from leanrec.errors import ReleaseError
from leanrec.files import read_json
from leanrec.schema import MODELS, ModelSpec

SPEC = "spec.json"
FRONT = "front.json"


def read_spec(path: Path) -> ModelSpec:
    """The `ModelSpec` in a spec.json; a ReleaseError when it is not one."""
    try:
        return ModelSpec(**read_json(path))
    except (OSError, ValueError, TypeError) as error:
        raise ReleaseError(f"{path}: not a model spec ({error}); export the graphs again") from None


def may_merge(release: Path) -> bool:
    """Whether a server may answer several requests as one batch: not where scores depend on the batch."""
    path = release / FRONT
    return not path.exists() or bool(read_json(path).get("merge_requests", True))


def same_tensors(releases: list[Path]) -> bool:
    """Whether the `release` folders agree on every tensor, so that one configuration serves them all.

    The columns of `user_attributes` must be the same attributes too: a client makes one request for
    whichever of them answers.
    """
    tensors = [
        (list(spec.attribute_cardinalities), [(spec.inputs(model), spec.outputs(model)) for model in MODELS])
        for spec in (read_spec(release / SPEC) for release in releases)
    ]
    return all(other == tensors[0] for other in tensors)
