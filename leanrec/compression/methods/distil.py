"""distil: a small model of the same architecture learns from the trained one, or from several.

The student starts from scratch with the widths that the settings give, all else as it was trained. What it
learns from its teacher: `leanrec/compression/distillation.py`.
"""

from __future__ import annotations

from pathlib import Path

import torch

from leanrec.compression.distillation import Teacher
from leanrec.compression.fine_tuning import fine_tune
from leanrec.compression.method import ModelMethod
from leanrec.compression.source import CompressionSource
from leanrec.config.methods import Distil
from leanrec.models.inputs import read_item_inputs
from leanrec.models.recommender import Recommender, load_model


def change(recommender: Recommender, settings: Distil, source: CompressionSource) -> Recommender:
    """A new, smaller model, taught by `recommender` and the models in `settings.teachers`."""
    training = recommender.settings
    given = settings.model_dump(exclude_none=True)
    retriever = {"dim": given.get("retriever_dim"), "hidden": given.get("retriever_hidden")}
    ranker = {
        "dim": given.get("ranker_dim"),
        "hidden": given.get("ranker_hidden"),
        "cross_layers": given.get("cross_layers"),
    }
    smaller = training.model_copy(
        update={
            "retriever": training.retriever.model_copy(update=_given(retriever)),
            "ranker": training.ranker.model_copy(update=_given(ranker)),
        }
    )
    torch.manual_seed(training.seed)
    student = Recommender(recommender.spec, smaller, read_item_inputs(source.features / "items.parquet"))
    teacher = Teacher([recommender, *(load_model(Path(folder)) for folder in settings.teachers)])
    return fine_tune(student, source, settings, teacher=teacher, from_scratch=True)


def _given(widths: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in widths.items() if value is not None}


DISTIL = ModelMethod(
    name="distil",
    change=change,
)
