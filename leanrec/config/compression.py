"""The recipes tried and how one of them is chosen."""

from __future__ import annotations

from pydantic import Field

from leanrec.config.recipes import RECIPES, Recipe
from leanrec.config.section import Section


class CompressionSettings(Section):
    """The recipes tried and how one of them is chosen."""

    recipes: tuple[Recipe, ...] = tuple(RECIPES.values())
    """Recipes, each measured: names of `RECIPES`, or `{name, steps}`; fp32 is the uncompressed export."""
    alpha: float = Field(default=0.5, ge=0, le=1)
    """Weight of the latency ratio against the quality loss."""
    max_auc_loss: float = Field(default=0.001, ge=0)
    """Quality floor: AUC may fall by this much."""
    max_ndcg_loss: float = Field(default=0.01, ge=0)
    """Quality floor: NDCG@10 may fall by this share."""
    max_bytes: int | None = None
    """Budget for the bytes served from the repository."""
