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
    equal_within_ndcg: float = Field(default=0.01, ge=0)
    """Share of NDCG@10 below the serving release that still counts as equal to it."""
    equal_within_auc: float = Field(default=0.001, ge=0)
    """AUC below the serving release that still counts as equal to it."""
    max_segment_ndcg_loss: float = Field(default=0.1, ge=0)
    """Share of NDCG@10 that a release may lose in a segment (cold users, tail items, ...), beyond chance."""
    max_segment_auc_loss: float = Field(default=0.02, ge=0)
    """AUC that a release may lose in a segment, beyond chance."""
    min_segment_users: int = Field(default=30, ge=2)
    """Users that a segment or group needs to be judged; of fewer the gate says that they are not enough."""
    max_popularity_lift: float = Field(default=4.0, gt=0)
    """Popularity of what is recommended over that of what its users took up: 1 is no popularity bias."""
    min_tail_exposure: float = Field(default=0.05, ge=0, le=1)
    """Exposure of tail items per like of theirs, over that of head items: 1 is fair by merit."""
    fairness_attributes: tuple[str, ...] = ("gender",)
    """User attributes whose groups are held beside each other, where the data has them."""
    max_auc_gap: float = Field(default=0.1, gt=0, le=1)
    """Most by which the AUC of two groups of users may differ, beyond chance."""
