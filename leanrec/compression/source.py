"""What a recipe starts from: the trained model, its float32 graphs, and the events it was trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from leanrec.models.recommender import Recommender, load_model
from leanrec.training.examples import TRAIN, Examples, read_examples


@dataclass(frozen=True, kw_only=True, eq=False)
class CompressionSource:
    """The artifacts of one training; what several recipes need of them is read, or made, once.

    The model's own settings (`model.json`) say how to fine-tune it.
    """

    graphs: Path
    """The `graphs` folder."""
    model: Path
    """The `model` folder."""
    features: Path
    """The `features` folder."""
    training_set: Path
    """The training set; only its train split is ever looked at."""
    changed: dict[str, Recommender] = field(default_factory=dict)
    """Models that recipes have changed already, by their steps: recipes that begin alike share the work."""

    @cached_property
    def recommender(self) -> Recommender:
        """The trained model."""
        return load_model(self.model)

    @cached_property
    def examples(self) -> Examples:
        """The events of the train split."""
        return read_examples(self.training_set, TRAIN, self.recommender.spec)
