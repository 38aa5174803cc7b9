"""The gates before a release: is it as good as what serves, in every segment too, and is it fair?

The graphs that would be released, the uncompressed ones and those of the serving release all answer the test
split, one user at a time as they are served; what is decided from the answers are pure functions of
`leanrec/evaluation/comparison.py` and `fairness.py`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leanrec.config import EvaluationSettings, ReleaseSettings
from leanrec.errors import ReleaseError
from leanrec.evaluation import metrics
from leanrec.evaluation.comparison import (
    EVERYBODY,
    Answered,
    Comparison,
    compare,
    decide_comparison,
)
from leanrec.evaluation.fairness import (
    GroupAuc,
    auc_by_group,
    decide_fairness,
    popularity_lift,
    relative_exposure,
)
from leanrec.evaluation.protocol import Protocol, load_protocol
from leanrec.evaluation.segments import head_items, train_events
from leanrec.export.graph_file import GRAPH_FILE, graph_path
from leanrec.export.runtime import GraphSession, Tensors
from leanrec.files import atomic_directory, finite, read_json, write_json
from leanrec.gates import Check, at_most, write_gate
from leanrec.journal import report_progress, step
from leanrec.release.repository import ModelRepository
from leanrec.release.requests import SPEC, read_spec
from leanrec.schema import MODELS, RANKER, RECOMMENDER, ModelSpec

STEP = "judge_release"
JUDGEMENT_FILE = "judgement.json"
PAIRS_AT_ONCE = 256
UNCOMPRESSED, CHOSEN = "the uncompressed form", "the new release"


@dataclass(frozen=True, kw_only=True)
class Form:
    """Both graphs of one form of the model, and the tensors that they take."""

    name: str
    graphs: dict[str, Path]
    spec: ModelSpec

    @classmethod
    def in_folder(cls, name: str, folder: Path) -> Form:
        """Of a `graphs` folder."""
        graphs = {model: graph_path(folder, model) for model in MODELS}
        return cls(name=name, graphs=graphs, spec=read_spec(Path(folder) / SPEC))

    @classmethod
    def serving(cls, repository: ModelRepository) -> Form | None:
        """Of the stable release; None before the first one."""
        state = repository.state()
        if state is None:
            return None
        folders = {model: repository.version_folder(model, state.stable) for model in MODELS}
        return cls(
            name=f"release {state.stable}",
            graphs={model: folder / GRAPH_FILE for model, folder in folders.items()},
            spec=read_spec(repository.release_folder(state.stable) / SPEC),
        )


@step(STEP)
def judge_release(
    settings: EvaluationSettings,
    release: ReleaseSettings,
    *,
    graphs: Path,
    compressed: Path,
    features: Path,
    training_set: Path,
    output: Path,
) -> bool:
    """Write the `judgement` folder: `judgement.json` (every comparison and figure) and `gate.json`.

    Args:
        settings: the bounds.
        release: where the serving release lies.
        graphs: both graphs in float32.
        compressed: the artifact whose `chosen/` would be released.
        features: the features folder, whose vocabulary names the groups of users.
        training_set: the training set; its test split is the window that all answer.
        output: folder to write.

    Returns whether every bound is kept. Raises an ExportError or ReleaseError when a graph cannot answer.
    """
    protocol = load_protocol(features, training_set, "test")
    ours = Form.in_folder(CHOSEN, Path(compressed) / "chosen")
    others = [Form.in_folder(UNCOMPRESSED, graphs), Form.serving(ModelRepository(Path(release.repository)))]
    present = [form for form in others if form is not None]
    chosen = ask(ours, ours.spec, protocol)
    report_progress(STEP, 1, 2 + len(present), f"{len(protocol.user)} users asked")
    found: dict[str, list[Comparison]] = {}
    for number, form in enumerate(present, 2):
        answered = ask(form, ours.spec, protocol)
        found[form.name] = compare(chosen, answered, protocol, min_users=settings.min_segment_users)
        report_progress(STEP, number, 2 + len(present), f"held against {form.name}")
    groups = _groups(settings, ours.spec, chosen, protocol, Path(features))
    lift, exposure = _exposure(chosen, protocol)
    ece = metrics.expected_calibration_error(protocol.pairs.liked, chosen.like)
    checks = [
        *(check for name, lines in found.items() for check in _comparison_checks(settings, name, lines)),
        *([] if len(present) == len(others) else [_first_release()]),
        at_most("calibration error of what is released", ece, settings.max_calibration_error),
        *decide_fairness(settings, lift, exposure, groups),
    ]
    with atomic_directory(output) as folder:
        write_json(folder / JUDGEMENT_FILE, _report(found, groups, lift, exposure, ece))
        passed = write_gate(folder, "judgement", checks)
    report_progress(
        STEP, 2 + len(present), 2 + len(present), f"{sum(c.passed for c in checks)} of {len(checks)} kept"
    )
    return passed


def _comparison_checks(settings: EvaluationSettings, name: str, lines: list[Comparison]) -> list[Check]:
    """Over everybody, the gate of compression has held the uncompressed form's figures to its own floor."""
    judged = [line for line in lines if name != UNCOMPRESSED or line.part != EVERYBODY]
    return decide_comparison(judged, settings, CHOSEN, name)


def ask(form: Form, spec: ModelSpec, protocol: Protocol) -> Answered:
    """What `form` answers to `protocol`, whose user rows are laid out as `spec` says.

    Raises a ReleaseError where a score is not a number.
    """
    recommender, ranker = (GraphSession(form.graphs[model]) for model in (RECOMMENDER, RANKER))
    requests, pairs = (
        rows_for(form.spec, spec, inputs) for inputs in (protocol.requests, protocol.pairs.inputs)
    )
    lists = recommender.run_in_batches(requests, 1)["item_index"]
    like = ranker.run_in_batches(pairs, PAIRS_AT_ONCE)["like"][:, 0].astype(np.float64)
    if not np.isfinite(like).all():
        raise ReleaseError(
            f"{form.name}: {int((~np.isfinite(like)).sum())} of {like.size} scores are not numbers; "
            "train again, or leave the recipe out"
        )
    return Answered(name=form.name, item_index=lists, like=like)


def rows_for(theirs: ModelSpec, ours: ModelSpec, inputs: Tensors) -> Tensors:
    """User rows laid out for `ours` as a release of another configuration takes them.

    Attributes go by their names, 0 for one that we do not have; of the history the newest events stay.
    """
    names = list(ours.attribute_cardinalities)
    attributes = np.zeros((len(inputs["user_index"]), theirs.num_attribute_columns), np.int64)
    for column, name in enumerate(theirs.attribute_cardinalities):
        if name in names:
            attributes[:, column] = inputs["user_attributes"][:, names.index(name)]
    history = _newest(inputs["history"], inputs["history"], theirs.history_length)
    ratings = _newest(inputs["history_ratings"], inputs["history"], theirs.history_length)
    return {**inputs, "user_attributes": attributes, "history": history, "history_ratings": ratings}


def _newest(values: np.ndarray, history: np.ndarray, length: int) -> np.ndarray:
    """The newest `length` of each row's values, oldest first, padded with 0 at the end."""
    if length >= values.shape[1]:
        return np.pad(values, ((0, 0), (0, length - values.shape[1])))
    first = np.maximum((history != 0).sum(axis=1) - length, 0)
    return np.take_along_axis(values, first[:, None] + np.arange(length), axis=1)


def _exposure(answered: Answered, protocol: Protocol) -> tuple[float | None, float | None]:
    """The popularity lift of the lists, and the exposure of tail items per like over that of the head's."""
    past = protocol.interactions
    taken_up = [past.item_index[past.user == user] for user in protocol.user]
    popularity = train_events(protocol).astype(np.float64)
    lift = popularity_lift(answered.item_index, taken_up, popularity)
    return lift, relative_exposure(answered.item_index, protocol.relevant, ~head_items(protocol))


def _groups(
    settings: EvaluationSettings, spec: ModelSpec, answered: Answered, protocol: Protocol, features: Path
) -> dict[str, list[GroupAuc]]:
    """The AUC of each group, for the attributes that are asked for and that the data has."""
    known = list(spec.attribute_cardinalities)
    pairs, found = protocol.pairs, {}
    for attribute in settings.fairness_attributes:
        if attribute in known:
            found[attribute] = auc_by_group(
                pairs.liked,
                answered.like,
                pairs.inputs["user_attributes"][:, known.index(attribute)],
                pairs.user,
                _labels(features, attribute, spec.attribute_cardinalities[attribute]),
                min_users=settings.min_segment_users,
            )
    return found


def _labels(features: Path, attribute: str, cardinality: int) -> list[str]:
    """The names of an attribute's groups by index; numbers where the vocabulary does not tell."""
    path = features / "vocabulary" / "attributes.json"
    told = read_json(path).get(attribute, []) if path.exists() else []
    names = ["unknown", *map(str, told)]
    return [*names, *map(str, range(len(names), cardinality))][:cardinality]


def _first_release() -> Check:
    return Check(
        figure="held against the serving release", value="none serves yet", bound="not worse", passed=True
    )


def _report(
    found: dict[str, list[Comparison]],
    groups: dict[str, list[GroupAuc]],
    lift: float | None,
    exposure: float | None,
    ece: float,
) -> dict[str, Any]:
    return {
        "comparisons": {name: [line.to_json() for line in lines] for name, lines in found.items()},
        "calibration_error": ece,
        "popularity_lift": finite(lift),
        "tail_exposure": finite(exposure),
        "auc_by_group": {name: [asdict(group) for group in each] for name, each in groups.items()},
    }
