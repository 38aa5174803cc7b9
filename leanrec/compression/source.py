"""What a recipe starts from: the trained model, its float32 graphs, and the events it was trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from leanrec.export.runtime import Tensors
from leanrec.models.recommender import Recommender, load_model
from leanrec.schema import RECOMMENDER
from leanrec.training.examples import TRAIN, Examples, read_examples

REQUESTS, CANDIDATES = 1024, 32
"""Requests that methods may look at, and candidates of each for the ranker."""


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

    def sample(self, size: int) -> Examples:
        """At most `size` events of the train split, the same ones each time, in the order of time."""
        draw = torch.Generator().manual_seed(self.recommender.settings.seed)
        return self.examples.take(torch.randperm(len(self.examples), generator=draw)[:size].sort().values)

    def requests(self, model: str) -> Tensors:
        """At most `REQUESTS` requests of the train split as `model` (recommender or ranker) takes them.

        Each is the user row just before an event; the ranker is asked for the item of that event and items
        drawn from the whole catalogue.
        """
        spec, events = self.recommender.spec, self.sample(REQUESTS)
        draw = torch.Generator().manual_seed(self.recommender.settings.seed)
        drawn = torch.randint(1, spec.num_items, (len(events), CANDIDATES - 1), generator=draw)
        last = (
            events.user.history if model == RECOMMENDER else torch.cat([events.item_index[:, None], drawn], 1)
        )
        values = (*events.user, last)
        return {tensor.name: value.numpy() for tensor, value in zip(spec.inputs(model), values, strict=True)}
