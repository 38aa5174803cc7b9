"""The recipes tried and how one of them is chosen."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from leanrec.config.recipes import DEFAULT_RECIPES, Recipe
from leanrec.config.section import Section


class CompressionSettings(Section):
    """The recipes tried and how one of them is chosen."""

    recipes: tuple[Recipe, ...] = DEFAULT_RECIPES
    """Recipes, each measured: names of `RECIPES`, or `{name, steps}`; fp32 is the uncompressed export."""
    alpha: float = Field(default=0.5, ge=0, le=1)
    """Weight of the latency ratio against the quality loss."""
    max_auc_loss: float = Field(default=0.001, ge=0)
    """Quality floor: AUC may fall by this much."""
    max_ndcg_loss: float = Field(default=0.01, ge=0)
    """Quality floor: NDCG@10 may fall by this share."""
    max_bytes: int | None = Field(default=None, ge=1)
    """Budget for the bytes served from the repository."""
    max_latency_ms: float | None = Field(default=None, gt=0)
    """Budget for p99 in milliseconds: one user a request, one caller, through Triton's gRPC."""
    tie: float = Field(default=0.05, ge=0)
    """Objectives this close to the least count as equal, and the smallest release among them wins."""
    shortlist: int | None = Field(default=None, ge=0)
    """Recipes besides fp32 that are measured in the real Triton, too, the likeliest to be chosen first; null:
    all of them, 0: none."""

    @model_validator(mode="after")
    def _latency_is_measured(self) -> Self:
        if self.max_latency_ms is not None and self.shortlist == 0:
            raise ValueError("max_latency_ms needs figures from Triton, and shortlist is 0; raise it")
        return self
