"""Drift: is what comes in now still what the model was trained on? Pure functions of values.

The population stability index sums (new - reference) * ln(new / reference) over bins, both as shares. By a
rule of thumb below 0.1 is stable, above 0.25 is another population. Two samples of one population have an
index above 0 too: it follows chi-squared with bins - 1 degrees of freedom, times (1 / n + 1 / m) (Yurdakul
and Naranjo, "Statistical properties of the population stability index", 2020). Its 95 % quantile is what
chance alone gives and is allowed beside the bound, so that a handful of events raises no alarm. Events of one
user are alike, so n and m are counts of users where the caller knows them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from leanrec.config import RetrainingSettings
from leanrec.evaluation.online import Rate

NUM_BINS = 10
Z_95 = 1.645
"""The normal distribution's 95 % quantile."""


@dataclass(frozen=True, kw_only=True)
class Signal:
    """One figure of drift beside its bound."""

    name: str
    value: float
    bound: float
    chance: float = 0.0
    """What chance alone may add to the bound."""
    num_reference: int = 0
    num_new: int = 0

    @property
    def drifted(self) -> bool:
        """Whether the value lies beyond the bound and chance; a value that is no number does."""
        return not self.value <= self.bound + self.chance


def stability_index(reference: npt.ArrayLike, new: npt.ArrayLike) -> float:
    """The population stability index of two histograms over the same bins; 0 where either is empty.

    Half a count is added to each bin, so that an empty one counts and stays finite.
    """
    counts = [np.asarray(values, dtype=np.float64) for values in (reference, new)]
    if any(values.sum() == 0 for values in counts):
        return 0.0
    before, now = ((values + 0.5) / (values + 0.5).sum() for values in counts)
    return float(((now - before) * np.log(now / before)).sum())


def chance_index(num_bins: int, num_reference: int, num_new: int) -> float:
    """The index that two samples of one population stay below 95 times in 100.

    The quantile of chi-squared by the approximation of Wilson and Hilferty (1931).
    """
    freedom = num_bins - 1
    if freedom < 1 or not num_reference or not num_new:
        return 0.0
    spread = 2 / (9 * freedom)
    quantile = freedom * (1 - spread + Z_95 * math.sqrt(spread)) ** 3
    return float(quantile * (1 / num_reference + 1 / num_new))


def number_signal(
    name: str,
    reference: npt.ArrayLike,
    new: npt.ArrayLike,
    bound: float,
    *,
    num_users: tuple[int, int] | None = None,
) -> Signal:
    """The index of a number, in bins between the reference's deciles; NaN is a bin of its own.

    `num_users`: how many users are behind the reference and behind the new values.
    """
    before, now = (np.asarray(values, dtype=np.float64) for values in (reference, new))
    known = before[np.isfinite(before)]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, NUM_BINS + 1)[1:-1])) if known.size else known

    def binned(values: np.ndarray) -> list[int]:
        return np.where(np.isfinite(values), np.searchsorted(edges, values, side="right"), -1).tolist()

    return category_signal(name, binned(before), binned(now), bound, num_users=num_users)


def category_signal(
    name: str,
    reference: Sequence[Hashable],
    new: Sequence[Hashable],
    bound: float,
    *,
    num_users: tuple[int, int] | None = None,
) -> Signal:
    """The index of a category; the reference's rarest ones and new ones share a bin."""
    counts: dict[Hashable, int] = {}
    for value in reference:
        counts[value] = counts.get(value, 0) + 1
    kept = sorted(counts, key=lambda value: -counts[value])[: 2 * NUM_BINS - 1]
    bins = {value: place for place, value in enumerate(kept)}
    histograms = [
        np.bincount([bins.get(value, len(kept)) for value in values], minlength=len(kept) + 1)
        for values in (reference, new)
    ]
    used = int(((histograms[0] + histograms[1]) > 0).sum())
    return Signal(
        name=name,
        value=stability_index(*histograms),
        bound=bound,
        chance=chance_index(used, *(num_users or (len(reference), len(new)))),
        num_reference=len(reference),
        num_new=len(new),
    )


def unknown_signal(name: str, indices: npt.ArrayLike, cardinality: int, bound: float) -> Signal:
    """The share of new events whose index the serving release does not have."""
    values = np.asarray(indices)
    share = float((values >= cardinality).mean()) if values.size else 0.0
    return Signal(name=name, value=share, bound=bound, num_new=values.size)


def click_through_signal(before: Rate, now: Rate, settings: RetrainingSettings) -> Signal:
    """The share of the click-through before that is lost now; chance: the half width of its 95 % interval.

    The interval of a ratio of two independent rates by the delta method (Katz et al. 1978).
    """
    bound, sizes = settings.max_click_through_loss, (before.num_trials, now.num_trials)
    if not before.value or not now.num_trials:
        value, chance = 0.0, 0.0
    else:
        value = 1 - now.value / before.value
        relative = (before.standard_error / before.value) ** 2
        absolute = (now.standard_error / before.value) ** 2
        chance = 1.96 * math.sqrt(absolute + (now.value / before.value) ** 2 * relative)
    return Signal(
        name="click-through lost",
        value=value,
        bound=bound,
        chance=chance,
        num_reference=sizes[0],
        num_new=sizes[1],
    )
