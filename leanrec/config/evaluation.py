"""The figures, and the bounds that they must keep."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leanrec.config.section import Section


class EvaluationSettings(Section):
    """The figures, and the bounds that they must keep."""

    ks: tuple[int, ...] = (5, 10, 20, 50)
    """Cut-offs of the ranking metrics."""
    must_beat: tuple[Literal["popularity", "item_knn"], ...] = ("popularity", "item_knn")
    """Baselines that the model, and its compressed form, must be better than on NDCG@10."""
    max_calibration_error: float = Field(default=0.1, gt=0)
    """Bound on the expected calibration error of P(like)."""
