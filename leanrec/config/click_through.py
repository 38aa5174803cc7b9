"""Click-through models over categorical fields alone: which, its sizes, and how it learns."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leanrec.config.section import Section, Widths


class ClickThroughSettings(Section):
    """A model that says how probable a click is, from one value of each field."""

    model: Literal["dcn_v2", "deep_fm"] = "dcn_v2"
    """Its name in leanrec/models/click_through.py."""
    dim: int = Field(default=10, ge=1)
    """Width of the table's rows."""
    hidden: Widths = (400, 400, 400)
    """Widths of the deep part."""
    cross_layers: int = Field(default=3, ge=1)
    """Cross layers (dcn_v2)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout in the deep part."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the impressions."""
    batch_size: int = Field(default=4096, ge=1)
    """Impressions a step."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Of Adam, for the table and for the rest."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the network while it learns; auto: bfloat16 where the processor multiplies matrices of
    it in hardware (AMX, AVX512_BF16). Weights, their optimizer and answers are float32 in any case."""
    seed: int = 1
    """Seed of every random draw."""
