"""What a search for hyper-parameters tries."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from leanrec.config.section import Section


class SearchSpace(Section):
    """The values of one setting: a range of numbers, or a list."""

    low: float | None = None
    """Smallest number."""
    high: float | None = None
    """Largest number."""
    log: bool = False
    """Whether numbers are drawn by their logarithm."""
    whole: bool = False
    """Whether only whole numbers are drawn."""
    values: tuple[bool | int | float | str, ...] = ()
    """The list, instead of a range."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.values:
            if self.low is not None or self.high is not None:
                raise ValueError("give `values`, or `low` and `high`, not both")
        elif self.low is None or self.high is None:
            raise ValueError("give `low` and `high`, or `values`")
        elif self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        elif self.log and self.low <= 0:
            raise ValueError(f"a logarithm needs a low above 0, not {self.low:g}")
        return self


PARAMETERS = {
    "retriever.learning_rate": SearchSpace(low=3e-4, high=1e-2, log=True),
    "retriever.table_learning_rate": SearchSpace(low=1e-2, high=0.2, log=True),
    "retriever.dim": SearchSpace(values=(32, 64, 128)),
    "retriever.dropout": SearchSpace(low=0.0, high=0.5),
    "ranker.learning_rate": SearchSpace(low=3e-4, high=1e-2, log=True),
    "ranker.table_learning_rate": SearchSpace(low=5e-3, high=0.1, log=True),
}


class SearchSettings(Section):
    """A search over settings of the section `training`."""

    parameters: dict[str, SearchSpace] = Field(default=PARAMETERS, min_length=1)
    """Settings below `training`, by their dotted names."""
    figure: Literal["valid_ndcg", "valid_auc", "valid_rmse"] = "valid_ndcg"
    """Figure of the training step that decides; of `valid_rmse` the smallest is best."""
    trials: int = Field(default=20, ge=1)
    """Trainings in all, the one with the settings as they are among them."""
    parallel: int = Field(default=1, ge=1)
    """Trainings at once, in a cluster; on one machine they run one after another."""
    seed: int = 1
    """Seed of what is tried next."""

    @property
    def maximize(self) -> bool:
        """Whether the figure should be large."""
        return self.figure != "valid_rmse"
