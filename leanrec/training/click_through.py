"""Training of click-through models on impressions that lie in memory, in one process.

What makes it quick on a CPU: one lookup for all fields, whole tensors shuffled once an epoch in the place of
rows gathered in Python, products in bfloat16 where the processor multiplies it in hardware, and Adam in one
fused kernel. A step adds up the gradient of parts of its batch, whose layers' outputs are small enough for
the allocator to hand out again: whole ones went back to the system, and a tenth of the time with them.
Where a step touches a small part of the table, Adam moves the rows that it touches (SparseAdam) and not all.

Shapes: E impressions · F fields.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from leanrec.config.click_through import ClickThroughSettings
from leanrec.errors import TrainingError
from leanrec.models.click_through import CLICK_MODELS, ClickModel

SPARSE_BEYOND = 8
"""Adam moves single rows where the table has more rows than so many times the lookups of a step."""


PART = 2048
"""Impressions whose gradient is computed at once."""


class Impressions(NamedTuple):
    """What was shown, and whether it was clicked."""

    fields: Tensor
    """[E, F] int64: each value counted within its field."""
    clicked: Tensor
    """[E] float32, 0 or 1."""


class Epoch(NamedTuple):
    """One pass over the impressions."""

    loss: float
    """Mean binary cross-entropy."""
    seconds: float
    samples_per_s: float


def fit_clicks(
    impressions: Impressions,
    cardinalities: Sequence[int],
    settings: ClickThroughSettings,
    watch: Callable[[Epoch], None] = lambda _: None,
) -> tuple[ClickModel, list[Epoch]]:
    """Train a click model; answers it in eval mode, and its epochs. `watch` is told of each.

    Args:
        impressions: What to learn from.
        cardinalities: How many values each of the F fields has.
        settings: Which model and how it learns.
        watch: Is told of each epoch as it ends.

    Raises a TrainingError when a value lies outside its field, all or none were clicked, or the loss is no
    number.
    """
    _refuse_misfits(impressions, cardinalities)
    torch.manual_seed(settings.seed)
    draw = torch.Generator().manual_seed(settings.seed)
    model = CLICK_MODELS[settings.model](cardinalities, settings).train()
    trainer = ClickTrainer(model, settings)
    rows = impressions.fields + model.offsets
    epochs = []
    for number in range(settings.epochs):
        started = time.perf_counter()
        order = torch.randperm(len(rows), generator=draw)
        loss = trainer.epoch(rows[order], impressions.clicked[order])
        seconds = time.perf_counter() - started
        if not math.isfinite(loss):
            raise TrainingError(
                f"the click model's loss is {loss} in epoch {number + 1}; "
                f"lower learning_rate {settings.learning_rate}"
            )
        epochs.append(Epoch(loss, seconds, len(rows) / seconds))
        watch(epochs[-1])
    return model.eval(), epochs


class ClickTrainer:
    """Steps of Adam on batches of rows of the table."""

    def __init__(self, model: ClickModel, settings: ClickThroughSettings) -> None:
        self.model = model
        self.batch_size = settings.batch_size
        self.dtype = number_format(settings.precision)
        touched = settings.batch_size * len(model.cardinalities)
        model.sparse_gradient = len(model.table) > SPARSE_BEYOND * touched
        dense = [p for p in model.parameters() if p is not model.table]
        rate = settings.learning_rate
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(dense, rate, fused=True)]
        if model.sparse_gradient:
            self.optimizers.append(torch.optim.SparseAdam([model.table], rate))
        else:
            self.optimizers.append(torch.optim.Adam([model.table], rate, fused=True))

    def epoch(self, rows: Tensor, clicked: Tensor) -> float:
        """One step a batch, in the order given; answers the mean loss."""
        losses = [
            self.step(*batch) * len(batch[0])
            for batch in zip(rows.split(self.batch_size), clicked.split(self.batch_size), strict=True)
        ]
        return float(torch.stack(losses).sum()) / len(rows)

    def step(self, rows: Tensor, clicked: Tensor) -> Tensor:
        """A step on rows [B, F] and clicks [B]; answers the loss."""
        losses = [
            self.add_gradient(*part, share=1 / len(rows))
            for part in zip(rows.split(PART), clicked.split(PART), strict=True)
        ]
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return torch.stack(losses).sum()

    def add_gradient(self, rows: Tensor, clicked: Tensor, share: float) -> Tensor:
        """Add the gradient of part of a batch, an impression's loss counting `share`; answers their sum."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype is torch.bfloat16):
            logits = self.model.answer(rows, self.dtype)
        summed = functional.binary_cross_entropy_with_logits(logits.float(), clicked, reduction="sum")
        loss = summed * share
        loss.backward()
        return loss.detach()


@torch.inference_mode()
def predict_clicks(model: ClickModel, fields: Tensor, batch_size: int = 65_536) -> Tensor:
    """P(click) of impressions [E, F], [E]."""
    return torch.cat([torch.sigmoid(model(part)) for part in fields.split(batch_size)])


def number_format(precision: str) -> torch.dtype:
    """What the network computes in by `ClickThroughSettings.precision`, on this processor."""
    if precision == "auto":
        precision = "bfloat16" if _multiplies_bfloat16() else "float32"
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def _multiplies_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware; others are slower in it than in float32."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def _refuse_misfits(impressions: Impressions, cardinalities: Sequence[int]) -> None:
    fields, clicked = impressions
    if fields.ndim != 2 or fields.shape != (len(clicked), len(cardinalities)) or len(clicked) == 0:
        raise TrainingError(
            f"impressions of shape {tuple(fields.shape)} do not fit {len(clicked)} clicks and "
            f"{len(cardinalities)} fields; give one row an impression and one column a field"
        )
    least, most = fields.min(dim=0).values, fields.max(dim=0).values
    for i, cardinality in enumerate(cardinalities):
        if int(least[i]) < 0 or int(most[i]) >= cardinality:
            raise TrainingError(
                f"field {i} must lie in 0..{cardinality - 1}, it has {int(least[i])}..{int(most[i])}; "
                "count its values from 0, or give its true cardinality"
            )
    share = float(clicked.mean())
    if share in (0.0, 1.0):
        seen = "clicked" if share else "not clicked"
        raise TrainingError(f"every impression is {seen}, so there is nothing to tell apart; add the others")
