"""What a recipe must know of a method, and the settings that methods of one kind share."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, model_validator

from leanrec.config.section import Section

MODEL, GRAPH = "model", "graph"
NULL = "none"
"""How a null is written where the default is another value: KFP's arguments know no null."""


class MethodSettings(Section):
    """The settings of one method, and what a recipe must know of it."""

    kind: ClassVar[str]
    """MODEL: changes the model, before export. GRAPH: rewrites the exported graph."""
    scales_by_batch: ClassVar[bool] = False
    """Whether a user's scores depend on who shares the batch; a server then must not merge requests."""

    @model_validator(mode="before")
    @classmethod
    def _none_is_null(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: None if value == NULL else value for name, value in values.items()}

    def rewrites(self) -> frozenset[str]:
        """What it gives a new form; a recipe does so at most once to each."""
        return frozenset()

    def written(self) -> dict[str, Any]:
        """All settings as JSON values without null: what is null by default is left out, others are NULL."""
        values = self.model_dump(mode="json")
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        return {
            name: NULL if value is None else value
            for name, value in values.items()
            if value is not None or defaults[name] is not None
        }


class FineTuningSettings(MethodSettings):
    """A method on the model, and how the model learns to live with it."""

    kind = MODEL
    retriever_epochs: int = Field(default=1, ge=0)
    """Passes over the training events for the retriever."""
    ranker_epochs: int = Field(default=1, ge=0)
    """Passes over the training events for the ranker."""
    rate: float = Field(default=0.3, gt=0)
    """Learning rates as a share of those in training; they fall to zero linearly."""
    teacher_weight: float = Field(default=0.5, ge=0, le=1)
    """Weight of what the trained model says, against what happened; 0: no teacher."""
    list_weight: float = Field(default=0.0, ge=0)
    """Weight, in the retriever's lesson, of the order by the teacher's ranker."""
    feature_weight: float = Field(default=0.0, ge=0)
    """Weight, in the ranker's lesson, of the teacher's last hidden layer."""


class GraphMethodSettings(MethodSettings):
    """A method after export. The weights of a graph are gathered tables or multiplied (dense) matrices."""

    kind = GRAPH
    weights: ClassVar[frozenset[str]]

    def rewrites(self) -> frozenset[str]:
        """`tables`, `dense` or both."""
        return self.weights
