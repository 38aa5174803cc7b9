"""The choice between recipes: a pure function of what was measured, with the reason in words.

Minimise      alpha * latency ratio + (1 - alpha) * quality loss
subject to    AUC loss <= max_auc_loss, NDCG@10 loss <= max_ndcg_loss,
              bytes <= max_bytes, p99 <= max_latency_ms

latency ratio   p50 of the recipe over p50 of fp32, side by side; 1 is as fast
AUC loss        AUC of fp32 - AUC of the recipe
NDCG loss       1 - NDCG@10 of the recipe / NDCG@10 of fp32
quality loss    mean of both losses, each in units of its floor: 0 is no loss (a gain counts as none, for it
                is chance), 1 is both losses at their floors

Objectives within `tie` of the least count as equal, and the smallest of them wins. At alpha 0.5 the default
of 0.05 is a tenth of the time (timings on a busy machine repeat to 4 %) or a tenth of the floors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from leanrec.config import CompressionSettings
from leanrec.errors import CompressionError


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The figures of one recipe that the choice depends on."""

    recipe: str
    bytes: int
    latency_ratio: float
    auc_loss: float
    ndcg_loss: float
    triton_p99_ms: float | None = None
    """p99 at one caller through Triton; None where it was not measured there."""
    missed_on_test: str | None = None
    """Why the test split set it aside, in words; None where it did not, or was not asked."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the choice makes of one recipe."""

    recipe: str
    objective: float
    """NaN when a figure is not a number."""
    within_floor: bool
    """Of quality: on valid and, where it was asked, on test."""
    within_budget: bool
    """Of bytes and, where it was measured, of latency."""
    on_front: bool
    """Whether no other recipe is as good in bytes, latency and quality and better in one of them."""
    why_not: str | None
    """Why it was not chosen; None for the chosen one."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The chosen recipe, why, and a verdict for each candidate in their order."""

    chosen: str
    reason: str
    verdicts: tuple[Verdict, ...]


def choose(candidates: Sequence[Measured], settings: CompressionSettings, baseline: str) -> Choice:
    """The candidate with the least objective within floor and budget, else `baseline`; the reason says so.

    Objectives within `tie` of the least: the fewest bytes. The reason names those set aside on test, too.
    Raises a CompressionError when `baseline` is not among the candidates.
    """
    by_name = {candidate.recipe: candidate for candidate in candidates}
    if baseline not in by_name:
        raise CompressionError(
            f"compression.recipes: {baseline!r} is missing, and all others are held against it"
        )
    front = {c.recipe for c in pareto_front(candidates, settings)}
    faults = {c.recipe: _fault(c, settings) for c in candidates}
    objectives = {c.recipe: objective(c, settings) for c in candidates}
    eligible = [c for c in candidates if faults[c.recipe] is None]
    least = min((objectives[c.recipe] for c in eligible), default=math.nan)
    tied = [c for c in eligible if objectives[c.recipe] <= least + settings.tie]
    best = min(tied, key=lambda c: (c.bytes, objectives[c.recipe]), default=by_name[baseline])
    verdicts = tuple(
        Verdict(
            recipe=c.recipe,
            objective=objectives[c.recipe],
            within_floor=_quality_fault(c, settings) is None,
            within_budget=_budget_fault(c, settings) is None,
            on_front=c.recipe in front,
            why_not=_why_not(c, best, faults[c.recipe], objectives, settings.tie),
        )
        for c in candidates
    )
    reason = _reason(best, by_name[baseline], eligible, objectives, settings, candidates)
    return Choice(chosen=best.recipe, reason=reason + _set_aside(candidates), verdicts=verdicts)


def pareto_front(candidates: Sequence[Measured], settings: CompressionSettings) -> list[Measured]:
    """Those that no other one dominates: as good in bytes, latency ratio and quality loss, better in one."""
    figures = {c.recipe: (c.bytes, c.latency_ratio, quality_loss(c, settings)) for c in candidates}

    def dominated(candidate: Measured) -> bool:
        ours = figures[candidate.recipe]
        return not all(math.isfinite(value) for value in ours) or any(
            theirs != ours and all(a <= b for a, b in zip(theirs, ours, strict=True))
            for theirs in figures.values()
        )

    return [candidate for candidate in candidates if not dominated(candidate)]


def shortlist(candidates: Sequence[Measured], settings: CompressionSettings, baseline: str) -> list[str]:
    """`baseline` and the others that a real Triton shall measure: `settings.shortlist` of them, or all.

    The likeliest to be chosen come first: those within floor and bytes, of them those on the front, by their
    objective. None when the setting is 0.
    """
    if settings.shortlist == 0:
        return []
    front = pareto_front(candidates, settings)

    def unlikely(candidate: Measured) -> tuple[bool, bool, float]:
        value = objective(candidate, settings)
        faulty = (_quality_fault(candidate, settings) or _budget_fault(candidate, settings)) is not None
        return faulty, candidate not in front, math.inf if math.isnan(value) else value

    others = sorted((c for c in candidates if c.recipe != baseline), key=unlikely)
    return [baseline, *(c.recipe for c in others[: settings.shortlist])]


def quality_loss(candidate: Measured, settings: CompressionSettings) -> float:
    """The mean of both losses in units of their floors; NaN when one is not a number."""
    return (
        _in_units_of(settings.max_auc_loss, candidate.auc_loss)
        + _in_units_of(settings.max_ndcg_loss, candidate.ndcg_loss)
    ) / 2


def objective(candidate: Measured, settings: CompressionSettings) -> float:
    """alpha * latency ratio + (1 - alpha) * quality loss; NaN when a figure is not a number."""
    loss = quality_loss(candidate, settings)
    weighted = (1 - settings.alpha) * loss if settings.alpha < 1 else 0.0
    return settings.alpha * candidate.latency_ratio + weighted + (math.nan if math.isnan(loss) else 0.0)


def _in_units_of(floor: float, loss: float) -> float:
    if math.isnan(loss):
        return math.nan
    if loss <= 0:
        return 0.0
    return loss / floor if floor > 0 else math.inf


def _quality_fault(candidate: Measured, settings: CompressionSettings) -> str | None:
    figures = {
        "latency ratio": candidate.latency_ratio,
        "AUC loss": candidate.auc_loss,
        "NDCG@10 loss": candidate.ndcg_loss,
    }
    for name, value in figures.items():
        if not math.isfinite(value):
            return f"its {name} is not a number"
    if candidate.auc_loss > settings.max_auc_loss:
        return f"AUC falls by {candidate.auc_loss:.4f}, floor {settings.max_auc_loss:g}"
    if candidate.ndcg_loss > settings.max_ndcg_loss:
        return f"NDCG@10 falls by {candidate.ndcg_loss:.2%}, floor {settings.max_ndcg_loss:.2%}"
    return candidate.missed_on_test


def _fault(candidate: Measured, settings: CompressionSettings) -> str | None:
    fault = _quality_fault(candidate, settings) or _budget_fault(candidate, settings)
    if fault is None and settings.max_latency_ms is not None and candidate.triton_p99_ms is None:
        return "its latency in Triton was not measured: it is not on the shortlist"
    return fault


def _budget_fault(candidate: Measured, settings: CompressionSettings) -> str | None:
    if settings.max_bytes is not None and candidate.bytes > settings.max_bytes:
        return f"{candidate.bytes:,} bytes, budget {settings.max_bytes:,}"
    p99 = candidate.triton_p99_ms
    if settings.max_latency_ms is not None and p99 is not None and p99 > settings.max_latency_ms:
        return f"p99 {p99:.2f} ms in Triton, budget {settings.max_latency_ms:g} ms"
    return None


def _why_not(
    candidate: Measured, best: Measured, fault: str | None, objectives: dict[str, float], tie: float
) -> str | None:
    if candidate.recipe == best.recipe:
        return None
    ours, theirs = objectives[best.recipe], objectives[candidate.recipe]
    if fault is None and theirs <= ours + tie and candidate.bytes >= best.bytes:
        return f"objective {theirs:.3f} is no clear gain over {ours:.3f}, and {best.recipe} is smaller"
    return fault or f"objective {theirs:.3f}, and {best.recipe} has {ours:.3f}"


def _reason(
    best: Measured,
    baseline: Measured,
    eligible: Sequence[Measured],
    objectives: dict[str, float],
    settings: CompressionSettings,
    candidates: Sequence[Measured],
) -> str:
    if not eligible:
        return _nothing_fits(baseline, settings, candidates)
    others = [c for c in candidates if c.recipe != baseline.recipe]
    if others and all(_quality_fault(c, settings) is not None for c in others):
        return _nothing_within_floor(baseline)
    if best.recipe == baseline.recipe:
        return (
            f"{best.recipe}, uncompressed, has the least objective ({objectives[best.recipe]:.3f}) "
            f"of the {len(eligible)} recipes within floor and budget: no recipe is faster without losing more"
        )
    return (
        f"{best.recipe} has the least objective ({objectives[best.recipe]:.3f}, ties within "
        f"{settings.tie:g} go to the smallest) of the {len(eligible)} recipes within floor and budget: "
        f"{best.latency_ratio:.2f} times the latency and "
        f"{best.bytes / baseline.bytes:.2f} times the bytes of {baseline.recipe}, "
        f"{_in_words('AUC', best.auc_loss, '.4f')}, {_in_words('NDCG@10', best.ndcg_loss, '.2%')}"
    )


def _nothing_fits(baseline: Measured, settings: CompressionSettings, candidates: Sequence[Measured]) -> str:
    within = [c for c in candidates if _quality_fault(c, settings) is None]
    small = [c for c in within if settings.max_bytes is None or c.bytes <= settings.max_bytes]
    timed = [(c.triton_p99_ms, c) for c in small if c.triton_p99_ms is not None]
    if timed and settings.max_latency_ms is not None:
        p99, quickest = min(timed, key=lambda pair: pair[0])
        return (
            f"no recipe within the quality floor keeps p99 within the budget of {settings.max_latency_ms:g} "
            f"ms; the nearest is {quickest.recipe} with {p99:.2f} ms ({p99 / settings.max_latency_ms:.2f} "
            f"times the budget), so {baseline.recipe} is released uncompressed; raise "
            "compression.max_latency_ms"
        )
    if within and settings.max_bytes is not None:
        nearest = min(within, key=lambda c: c.bytes)
        return (
            f"no recipe within the quality floor fits the budget of {settings.max_bytes:,} bytes; the "
            f"nearest is {nearest.recipe} with {nearest.bytes:,} bytes "
            f"({nearest.bytes / settings.max_bytes:.2f} times the budget), "
            f"so {baseline.recipe} is released uncompressed; raise compression.max_bytes"
        )
    return _nothing_within_floor(baseline)


def _nothing_within_floor(baseline: Measured) -> str:
    return (
        f"no recipe is within the quality floor, so {baseline.recipe} is released uncompressed; "
        "look at the figures of each, or raise compression.max_auc_loss and max_ndcg_loss"
    )


def _set_aside(candidates: Sequence[Measured]) -> str:
    """Those which valid prefers to the chosen one and test set aside."""
    faults = [f"{c.recipe} ({c.missed_on_test})" for c in candidates if c.missed_on_test is not None]
    return f"; preferred on valid, and set aside: {', '.join(faults)}" if faults else ""


def _in_words(figure: str, loss: float, form: str) -> str:
    """`figure` and what it lost; what rounds to nothing is no loss, and below 0 is a gain."""
    size = f"{abs(loss):{form}}"
    if size == f"{0:{form}}":
        return f"no {figure} lost"
    return f"{figure} {size} {'lower' if loss > 0 else 'higher'}"
