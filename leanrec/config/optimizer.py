"""How weights follow gradients."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from leanrec.config.section import Section


class OptimizerSettings(Section):
    """The optimizers, the course of the learning rates, precision."""

    model_config = ConfigDict(allow_inf_nan=False)

    dense: Literal["adamw", "adam", "adagrad"] = "adamw"
    """Of all weights but the tables'. AdamW decouples the weight decay, the others take it as L2."""
    tables: Literal["adagrad", "rowwise_adagrad"] = "adagrad"
    """Of the embedding tables, fused in the backward pass: a sum of squares a weight, or one a row (and a
    process that holds a part of it), which takes half the memory."""
    table_weight_decay: float = Field(default=0.0, ge=0)
    """L2 of the tables in training, not in a recipe's fine-tuning: the gradient of each row that a step looks
    up grows by this times the row. Where not all processes look a row up, it is their share of that, as
    gradients are means over processes."""
    schedule: Literal["constant", "step", "cosine"] = "constant"
    """How learning rates fall: not at all, by `step_factor` every `step_epochs`, along half a cosine."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps in which the learning rates rise to their value."""
    step_epochs: int = Field(default=1, ge=1)
    """Epochs between two falls of the schedule `step`."""
    step_factor: float = Field(default=0.5, gt=0, le=1)
    """What the learning rates are multiplied by at each fall of the schedule `step`."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of the dense part's gradient, beyond which it is scaled down; null: any."""
    accumulate: int = Field(default=1, ge=1)
    """Steps whose dense gradients are averaged before the dense part moves and processes exchange them; the
    tables move at every step, for their optimizer is part of the backward pass, but those `data_parallel`."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the dense part's products; weights, tables and optimizers stay in float32. fp16, for GPUs without
    bf16, scales the loss, and leaves out a step whose gradients leave its range."""
