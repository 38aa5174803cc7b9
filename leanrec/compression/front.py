"""The content of `front.json`: a row of figures for each recipe, and the choice between them."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from leanrec.compression.acceptance import Accepted
from leanrec.compression.measure import (
    Candidate,
    answer_side_by_side,
    answer_to_many,
    latency_ratio,
    losses,
    quality_of,
)
from leanrec.compression.selection import Measured
from leanrec.config import CompressionSettings, Recipe
from leanrec.evaluation.protocol import Protocol
from leanrec.evaluation.segments import evaluate_segments
from leanrec.files import finite
from leanrec.schema import RECOMMENDER

MEASURED = ("recipe", "bytes", "latency_ratio", "auc_loss", "ndcg_loss")


def measure_here(candidates: list[Candidate], protocol: Protocol, baseline: str) -> list[dict[str, Any]]:
    """A row of figures for each candidate in ONNX Runtime in this process, the baseline's first."""
    answers = answer_side_by_side(candidates, protocol.requests)
    many = answer_to_many(candidates, protocol.requests)
    rows: list[dict[str, Any]] = []
    for candidate in candidates:
        answered = answers[candidate.recipe]
        like, rating = candidate.rate(protocol.pairs)
        quality = quality_of(answered.item_index, like, rating, protocol)
        base = rows[0] if rows else quality
        rows.append(
            {
                "recipe": candidate.recipe,
                "bytes": candidate.served_bytes(),
                "resident_bytes": candidate.resident_bytes(),
                "latency_ms": answered.latency_ms(),
                "latency_many_ms": many[candidate.recipe].percentiles(),
                "latency_ratio": latency_ratio(answered, answers[baseline]),
                **quality,
                **losses(quality, base),
                "segments": [asdict(s) for s in evaluate_segments(answered.item_index, like, protocol)]
                if math.isfinite(quality["auc"])
                else [],
            }
        )
    return rows


def figures_of(row: dict[str, Any]) -> Measured:
    """What the choice depends on."""
    served = row.get("triton")
    p99 = served[RECOMMENDER]["latency_ms"]["p99"] if served else None
    return Measured(**{name: row[name] for name in MEASURED}, triton_p99_ms=p99)


def front_of(
    accepted: Accepted,
    rows: list[dict[str, Any]],
    settings: CompressionSettings,
    recipe: Recipe,
) -> dict[str, Any]:
    """The content of `front.json`; a figure that is not a number becomes null."""
    choice = accepted.choice
    candidates = [
        {
            **row,
            **_on_test(row["recipe"], accepted, rows[0]["recipe"]),
            **{key: value for key, value in asdict(verdict).items() if key != "recipe"},
        }
        for row, verdict in zip(rows, choice.verdicts, strict=True)
    ]
    return {
        "chosen": choice.chosen,
        "reason": choice.reason,
        "baseline": rows[0]["recipe"],
        "steps": recipe.model_dump(mode="json")["steps"],
        "chosen_on": "valid",
        "set_aside": list(accepted.set_aside),
        "merge_requests": not recipe.scales_by_batch,
        "objective": {
            name: getattr(settings, name)
            for name in ("alpha", "max_auc_loss", "max_ndcg_loss", "max_bytes", "max_latency_ms")
        },
        "candidates": [finite(candidate) for candidate in candidates],
    }


def _on_test(recipe: str, accepted: Accepted, baseline: str) -> dict[str, Any]:
    """`test`, the figures on the test split, and the losses' intervals, of a recipe that was asked there."""
    judged = accepted.judged.get(recipe)
    if judged is None:
        return {}
    lost = accepted.lost.get(recipe, {})
    return {
        "test": {**judged.quality, **losses(judged.quality, accepted.judged[baseline].quality)},
        "test_intervals": {name: {"low": loss.low, "high": loss.high} for name, loss in lost.items()},
    }
