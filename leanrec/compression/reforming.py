"""What methods have in common that give layers or tables another form: fill it, then fine-tune the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from leanrec.compression.fine_tuning import fine_tune
from leanrec.compression.method import ModelMethod
from leanrec.compression.source import CompressionSource
from leanrec.models.forms import Description
from leanrec.models.recommender import Recommender


def reforming(name: str, forms: Callable[[Recommender, Any], Description]) -> ModelMethod:
    """The method `name`: the forms that `forms` makes of a model and its settings, by shapes alone."""

    def change(recommender: Recommender, settings: Any, source: CompressionSource) -> Recommender:
        recommender.take_forms(forms(recommender, settings))
        return fine_tune(recommender, source, settings)

    return ModelMethod(name=name, change=change, forms=forms)
