"""Losses of a retriever: what the score of the item taken up owes the scores of the others.

Each answers one number an event. `taken_up` [E] and `others` [E, M] are scores; an item that must not count
among the others has a score far below all (`MASKED`), where every loss here is flat. `share` [M] (or [E, M])
says for how much of an average over the others each one stands; it sums to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from leanrec.config import RetrieverSettings

PairwiseLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From `taken_up`, `others` and `share`."""


def softmax_loss(taken_up: Tensor, others: Tensor) -> Tensor:
    """-log of the probability of the item taken up among itself and the others.

    Over a sample the others come corrected by -log(times that each is expected in the draw), so that their
    sum stands for the catalogue's (Bengio & Senecal 2008, "Adaptive importance sampling"; for the items of a
    batch Yi et al. 2019, "Sampling-bias-corrected neural modeling").
    """
    return torch.logsumexp(torch.cat([taken_up.unsqueeze(1), others], dim=1), dim=1) - taken_up


def bpr_loss(taken_up: Tensor, others: Tensor, share: Tensor) -> Tensor:
    """-log of the probability that the item taken up beats another (Rendle et al. 2009, arXiv:1205.2618)."""
    return (functional.softplus(others - taken_up.unsqueeze(1)) * share).sum(dim=1)


def bce_loss(
    taken_up: Tensor, others: Tensor, share: Tensor, num_negatives: int, power: float = 1.0
) -> Tensor:
    """Binary cross-entropy of the item taken up (1) and of `num_negatives` others (0), their mean.

    `power` is gBCE's beta: the probability of the item taken up to that power; 1 is the plain loss.
    """
    rejected = (functional.softplus(others) * share).sum(dim=1)
    return (power * functional.softplus(-taken_up) + num_negatives * rejected) / (1 + num_negatives)


def gbce_power(num_negatives: int, num_items: int, calibration: float) -> float:
    """beta of gBCE (Petrov & Macdonald 2023, "gSASRec", arXiv:2308.07192, equation 8).

    A sample of negatives makes BCE overrate the items taken up; this power undoes it in part (`calibration`
    t in 0..1) or in whole. `num_items` counts the catalogue without the unknown item.
    """
    rate = min(1.0, num_negatives / max(1, num_items - 1))
    return rate * (calibration * (1 - 1 / rate) + 1 / rate)


def pairwise_loss(settings: RetrieverSettings, num_items: int) -> PairwiseLoss:
    """The loss over single items that the settings name: bpr, bce or gbce.

    `num_items` counts the catalogue without the unknown item.
    """
    if settings.loss == "bpr":
        return bpr_loss
    count = settings.num_negatives
    power = gbce_power(count, num_items, settings.calibration) if settings.loss == "gbce" else 1.0
    return partial(bce_loss, num_negatives=count, power=power)
