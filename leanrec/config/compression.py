"""The recipes tried and how one of them is chosen."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leanrec.config.section import Section

Recipe = Literal["fp32", "fp16", "int8_tables", "int8_mlp", "int8"]
"""The names in `leanrec/compression/recipes.py`, which a test holds against these."""


class CompressionSettings(Section):
    """The recipes tried and how one of them is chosen."""

    recipes: tuple[Recipe, ...] = ("fp32", "fp16", "int8_tables", "int8_mlp", "int8")
    """Recipes, each measured; fp32 is the uncompressed export."""
    alpha: float = Field(default=0.5, ge=0, le=1)
    """Weight of the latency ratio against the quality loss."""
    max_auc_loss: float = Field(default=0.001, ge=0)
    """Quality floor: AUC may fall by this much."""
    max_ndcg_loss: float = Field(default=0.01, ge=0)
    """Quality floor: NDCG@10 may fall by this share."""
    max_bytes: int | None = None
    """Budget for the bytes served from the repository."""
