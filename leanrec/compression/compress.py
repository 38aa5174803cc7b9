"""The step `compress_models`: apply every recipe, measure each, choose one and say why.

The choice is made on the valid split. The test split is asked about the baseline and the chosen recipe; where
that one misses its floor there, it is set aside and the next one is asked, down to the baseline.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from leanrec.compression.acceptance import (
    Accepted,
    accept,
    baseline_checks,
    floor_checks,
    judge,
    read_baselines,
)
from leanrec.compression.front import figures_of, front_of, measure_here
from leanrec.compression.measure import Candidate
from leanrec.compression.recipes import BASELINE, RECIPES, change_model, write_compressed
from leanrec.compression.selection import shortlist
from leanrec.compression.served import measure_in_triton
from leanrec.compression.source import CompressionSource
from leanrec.config import CompressionSettings, Recipe
from leanrec.errors import CompressionError
from leanrec.evaluation.protocol import Protocol, load_protocol
from leanrec.export.golden import Golden, read_golden, write_golden
from leanrec.export.graphs import ITEMS_FILE, SPEC_FILE
from leanrec.files import atomic_directory, read_json, write_json
from leanrec.gates import write_gate
from leanrec.journal import report_progress, step
from leanrec.schema import MODELS, ModelSpec
from leanrec.training.memory import available_memory, size_in_words

STEP = "compress_models"
FRONT_FILE = "front.json"
CHOSEN_FOLDER = "chosen"
MAX_USERS, MAX_PAIRS = 1000, 20_000
"""Requests and rated pairs of the valid split that each candidate answers."""


@step(STEP)
def compress_models(
    settings: CompressionSettings,
    *,
    graphs: Path,
    model: Path,
    evaluation: Path,
    features: Path,
    training_set: Path,
    output: Path,
) -> dict[str, Any]:
    """Write the `compressed` folder: `front.json` (every recipe, the choice and why), `chosen/`, `gate.json`.

    Args:
        settings: the recipes, the objective, the quality floor and the byte budget.
        graphs: the `graphs` folder that export wrote.
        model: the `model` folder that training wrote, for the methods that change the model.
        evaluation: the `evaluation` folder, for what the baselines reach.
        features: the features folder.
        training_set: the training set; its valid split chooses, its test split may set the chosen aside.
        output: folder to write.

    Returns the chosen recipe, its bytes, latency_ratio, auc_loss and ndcg_loss, those set aside on test, and
    whether the gate passed. Raises a CompressionError when a recipe cannot compose or finds nothing to
    rewrite, and an ExportError when `graphs` or `evaluation` is damaged.
    """
    recipes = {recipe.name: recipe for recipe in (RECIPES[BASELINE], *settings.recipes)}
    source = CompressionSource(
        graphs=Path(graphs), model=Path(model), features=Path(features), training_set=Path(training_set)
    )
    golden, baselines = read_golden(graphs), read_baselines(evaluation)
    valid = load_protocol(features, training_set, "valid", max_users=MAX_USERS, max_pairs=MAX_PAIRS)
    with tempfile.TemporaryDirectory(prefix="leanrec-compress-") as work:
        candidates = _candidates(recipes, source, Path(work))
        report_progress(STEP, 1, 5, f"{len(candidates)} recipes applied")
        rows = measure_here(candidates, valid, BASELINE)
        report_progress(STEP, 2, 5, f"measured over {len(valid.user)} users")
        _measure_in_triton(rows, candidates, recipes, valid, settings)
        report_progress(STEP, 3, 5, f"measured in Triton: {_measured_there(rows)}")
        accepted = _accept(rows, candidates, features, training_set, settings)
        chosen = accepted.choice.chosen
        with atomic_directory(output) as folder:
            beside = golden.of_recipe(chosen, change_model(recipes[chosen], source))
            best = next(candidate for candidate in candidates if candidate.recipe == chosen)
            _write_chosen(best, beside, Path(graphs), folder / CHOSEN_FOLDER)
            write_json(folder / FRONT_FILE, front_of(accepted, rows, settings, recipes[chosen]))
            passed = write_gate(
                folder,
                "compression",
                [
                    *baseline_checks(accepted.judged[chosen], baselines),
                    *floor_checks(settings, chosen, accepted.lost[chosen]),
                ],
            )
    report_progress(STEP, 5, 5, accepted.choice.reason)
    row = next(row for row in rows if row["recipe"] == chosen)
    figures = ("bytes", "latency_ratio", "auc_loss", "ndcg_loss")
    return {
        "chosen": chosen,
        "passed": passed,
        "set_aside": list(accepted.set_aside),
        **{name: row[name] for name in figures},
    }


def _accept(
    rows: list[dict[str, Any]],
    candidates: list[Candidate],
    features: Path,
    training_set: Path,
    settings: CompressionSettings,
) -> Accepted:
    """Let the test split judge, one candidate after another, until one keeps its floor."""
    test = load_protocol(features, training_set, "test")
    by_name = {candidate.recipe: candidate for candidate in candidates}
    accepted = accept(
        [figures_of(row) for row in rows], lambda name: judge(by_name[name], test), test, settings, BASELINE
    )
    aside = "".join(f"{name} set aside, then " for name in accepted.set_aside)
    report_progress(STEP, 4, 5, f"{aside}{accepted.choice.chosen} judged by {len(test.user)} test users")
    return accepted


def _candidates(recipes: dict[str, Recipe], source: CompressionSource, work: Path) -> list[Candidate]:
    for name, recipe in recipes.items():
        if name != BASELINE:
            write_compressed(recipe, source, work / name)
    return [Candidate.load(name, source.graphs if name == BASELINE else work / name) for name in recipes]


def _measure_in_triton(
    rows: list[dict[str, Any]],
    candidates: list[Candidate],
    recipes: dict[str, Recipe],
    protocol: Protocol,
    settings: CompressionSettings,
) -> None:
    """Add `triton`, the figures of the real server, to the rows of those on the shortlist."""
    worth = shortlist([figures_of(row) for row in rows], settings, BASELINE)
    if not worth:
        return
    _refuse_what_does_not_fit([row for row in rows if row["recipe"] in worth])
    spec = ModelSpec(**read_json(candidates[0].folder / SPEC_FILE))
    served = measure_in_triton(
        [candidate for candidate in candidates if candidate.recipe in worth],
        protocol.requests,
        spec,
        merged={name: not recipes[name].scales_by_batch for name in worth},
    )
    for row in rows:
        row["triton"] = served[row["recipe"]].to_json() if row["recipe"] in served else None


def _refuse_what_does_not_fit(rows: list[dict[str, Any]]) -> None:
    """A CompressionError where one Triton could not hold all of them beside each other."""
    needed = sum(row["resident_bytes"] or row["bytes"] for row in rows)
    there = available_memory()
    if needed > there:
        raise CompressionError(
            f"compression.shortlist: {len(rows)} recipes in one Triton need {size_in_words(needed)} of"
            f" memory, and {size_in_words(there)} are free; set it to fewer (0: none is measured there)"
        )


def _measured_there(rows: list[dict[str, Any]]) -> str:
    return ", ".join(row["recipe"] for row in rows if row.get("triton")) or "none"


def _write_chosen(best: Candidate, golden: Golden, graphs: Path, folder: Path) -> None:
    """The chosen graphs with spec, item table and the golden requests, trainer's answers included."""
    folder.mkdir()
    for name in (SPEC_FILE, ITEMS_FILE):
        shutil.copyfile(graphs / name, folder / name)
    for model in MODELS:
        shutil.copytree(best.folder / model, folder / model)
    if best.recipe == BASELINE:
        write_golden(golden, folder)
        return
    lists, scores = best.compare(golden)
    ratio = max(lists.largest_ratio, scores.largest_ratio)
    if not (math.isfinite(lists.largest) and math.isfinite(scores.largest)):
        raise CompressionError(
            f"recipe {best.recipe}: its golden scores are not numbers; drop it from compression.recipes"
        )
    whose = "the trainer" if golden.changed is None else "the model that the recipe made of the trained one"
    how = (
        f"from {whose} what release.max_score_ratio and min_shared_top_10 allow; in ONNX Runtime, one "
        f"user at a time, scores differ by a factor of {ratio:.3g} at most and lists share "
        f"{lists.shared_top_10:.1%} of their ten items"
    )
    write_golden(replace(golden, how=how), folder)
