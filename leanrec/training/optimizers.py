"""How weights follow gradients: the dense part's optimizer, and the course of the learning rates.

Rates and groups are pure functions of the step, so that a checkpoint needs to hold nothing of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from leanrec.config.optimizer import OptimizerSettings


def dense_optimizer(
    settings: OptimizerSettings,
    parameters: Iterable[nn.Parameter],
    *,
    learning_rate: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """The optimizer of all weights but the tables'."""
    optimizers: dict[str, type[torch.optim.Optimizer]] = {
        "adamw": torch.optim.AdamW,
        "adam": torch.optim.Adam,
        "adagrad": torch.optim.Adagrad,
    }
    kind = optimizers[settings.dense]
    return kind(parameters, lr=learning_rate, weight_decay=weight_decay)  # type: ignore[call-arg]


def rate_at(settings: OptimizerSettings, step: int, steps_an_epoch: int, epochs: int) -> float:
    """What all learning rates are multiplied by at `step`, counted from 0 over all epochs.

    A linear warm-up over `warmup_steps`, then constant, falling by `step_factor` every `step_epochs`, or
    along half a cosine to 0 at the end of the last epoch (Loshchilov and Hutter 2017, without restarts).
    """
    warmup = settings.warmup_steps
    rising = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if settings.schedule == "step":
        return rising * float(settings.step_factor ** (step // steps_an_epoch // settings.step_epochs))
    if settings.schedule == "cosine":
        rest = max(1, steps_an_epoch * epochs - warmup)
        share = min(1.0, max(0, step - warmup) / rest)
        return rising * 0.5 * (1 + math.cos(math.pi * share))
    return rising


def group_of(step: int, num_steps: int, accumulate: int) -> tuple[int, int]:
    """The place of `step` among those whose dense gradients are added up, and how many they are.

    The last group of an epoch holds what is left of it.
    """
    place = step % accumulate
    return place, min(accumulate, num_steps - (step - place))
