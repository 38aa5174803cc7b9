"""Does a recipe suit the models that it is to change? Asked of the settings, before anything is trained.

Methods on the model know the inside of some architectures alone, and make things smaller only. What the
weights themselves must tell, such as a rank against each layer's width, a method says when it is applied.
"""

from __future__ import annotations

from typing import Any

from leanrec.config.methods import (
    MODEL,
    Distil,
    FineTuningSettings,
    PruneCrossLayers,
    PruneDimensions,
    PruneHeads,
    PruneNeurons,
)
from leanrec.config.recipes import Recipe
from leanrec.config.training import TrainingSettings

RETRIEVER, RANKER = "retriever", "ranker"
KNOWN = {RETRIEVER: "two_tower", RANKER: "dcn_v2"}
"""Part -> the one architecture whose inside methods know."""
ATTENTION = {RETRIEVER: "sasrec", RANKER: "behaviour_sequence_transformer"}
"""Part -> the one architecture that has attention, whose heads can be cut out."""
TEACHING = (KNOWN[RANKER], ATTENTION[RANKER])
"""Rankers that can teach: distillation knows their last hidden layer."""
RESHAPING = (Distil, PruneDimensions, PruneNeurons, PruneCrossLayers)
"""Settings of methods that leave a plain model of other widths."""


def check_fit(recipe: Recipe, training: TrainingSettings) -> None:
    """Raise a ValueError when a method of `recipe` cannot change the models of `training`, step by step."""
    for step in recipe.of_kind(MODEL):
        settings = step.parsed()
        misfit = misfit_of(step.method, settings, training)
        if misfit is not None:
            raise ValueError(f"recipe {recipe.name}: {misfit}")
        training = reshaped(settings, training)


def misfit_of(method: str, settings: FineTuningSettings, training: TrainingSettings) -> str | None:
    """Why `method` cannot change models of `training`, with the way out; None when it can."""
    known_inside = ATTENTION if isinstance(settings, PruneHeads) else KNOWN
    for part in _parts_cut(settings, training):
        model, known = getattr(training, part).model, known_inside[part]
        if model != known:
            return (
                f"{method} knows the inside of {known} alone, and the {part} is {model!r}; leave the "
                "method out of the recipe"
            )
    return _too_large(settings, training) or _unteachable(method, settings, training)


def neurons_left(share: float, neurons: int) -> int:
    """Of a hidden layer, when `share` of its neurons go; one stays at least."""
    return max(1, neurons - round(share * neurons))


def reshaped(settings: FineTuningSettings, training: TrainingSettings) -> TrainingSettings:
    """`training` with the widths that a method leaves."""
    if not isinstance(settings, RESHAPING):
        return training
    if isinstance(settings, PruneNeurons):
        return training.model_copy(
            update={
                part: _with_fewer_neurons(settings.share, getattr(training, part)) for part in settings.parts
            }
        )
    names = {
        RETRIEVER: {"dim": "retriever_dim", "hidden": "retriever_hidden"},
        RANKER: {"dim": "ranker_dim", "hidden": "ranker_hidden", "cross_layers": "cross_layers"},
    }
    parts: dict[str, Any] = {}
    for part, fields in names.items():
        found = {field: getattr(settings, name, None) for field, name in fields.items()}
        changed = {field: value for field, value in found.items() if value is not None}
        parts[part] = getattr(training, part).model_copy(update=changed)
    return training.model_copy(update=parts)


def _with_fewer_neurons(share: float, part: Any) -> Any:
    return part.model_copy(update={"hidden": tuple(neurons_left(share, width) for width in part.hidden)})


def _parts_cut(settings: FineTuningSettings, training: TrainingSettings) -> tuple[str, ...]:
    """The parts that a method cuts layer by layer, whose inside it must know."""
    match settings:
        case PruneDimensions():
            asked = {RETRIEVER: settings.retriever_dim, RANKER: settings.ranker_dim}
            return tuple(p for p, dim in asked.items() if dim not in (None, getattr(training, p).dim))
        case PruneNeurons():
            return settings.parts
        case PruneCrossLayers():
            return (RANKER,)
        case PruneHeads():
            return tuple(part for part in ATTENTION if getattr(settings, f"{part}_heads") is not None)
    return ()


def _too_large(settings: FineTuningSettings, training: TrainingSettings) -> str | None:
    """Pruning makes smaller: more than there is cannot be kept, and as much as there is prunes nothing."""
    if isinstance(settings, PruneDimensions):
        parts = _parts_cut(settings, training)
        for part in parts:
            dim, has = getattr(settings, f"{part}_dim"), getattr(training, part).dim
            if dim > has:
                return (
                    f"prune_dimensions: {part}_dim {dim} is above the {part}'s width {has}; "
                    "choose a smaller one"
                )
        if not parts:
            return (
                "prune_dimensions: nothing would become narrower; give a smaller retriever_dim or ranker_dim"
            )
    if isinstance(settings, PruneCrossLayers) and settings.cross_layers > training.ranker.cross_layers:
        return (
            f"prune_cross_layers: cross_layers {settings.cross_layers} is above the "
            f"{training.ranker.cross_layers} that the ranker has; choose fewer, or leave the method out"
        )
    return _too_many_heads(settings, training) if isinstance(settings, PruneHeads) else None


def _too_many_heads(settings: PruneHeads, training: TrainingSettings) -> str | None:
    parts = _parts_cut(settings, training)
    left = {part: getattr(settings, f"{part}_heads") for part in parts}
    has = {part: getattr(getattr(training, part), ATTENTION[part]).heads for part in parts}
    for part in parts:
        if left[part] > has[part]:
            return (
                f"prune_heads: {part}_heads {left[part]} is above the {has[part]} that the {part} has; "
                "choose fewer"
            )
    if left == has:
        return "prune_heads: no head would go; give a smaller retriever_heads or ranker_heads"
    return None


def _unteachable(method: str, settings: FineTuningSettings, training: TrainingSettings) -> str | None:
    """Fine-tuning needs a retriever that learns by gradient, and a teacher whose ranker is known inside."""
    if settings.retriever_epochs == settings.ranker_epochs == 0:
        return None
    retriever, ranker = training.retriever.model, training.ranker.model
    if not training.retriever.does_read(retriever, "epochs"):
        return (
            f"{method} fine-tunes, and the retriever {retriever!r} does not learn by gradient; leave the "
            "method out of the recipe"
        )
    if settings.teacher_weight > 0 and ranker not in TEACHING:
        return (
            f"{method} knows the inside of {' and '.join(TEACHING)} alone as a teacher, and the ranker is "
            f"{ranker!r}; leave the method out of the recipe, or set its teacher_weight to 0"
        )
    return None
