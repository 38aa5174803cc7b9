"""Training from the release, and where it is asked for from nothing beside it: which of the two goes on?

Both learn from the same events and are judged by the same protocol. The choice is made on the split `valid`,
so that the test split stays what the gates judge by; the figures of both splits are written down.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from leanrec.config import TrainingSettings
from leanrec.evaluation.bootstrap import (
    Interval,
    bootstrap_auc,
    bootstrap_auc_difference,
    bootstrap_difference,
    bootstrap_mean,
)
from leanrec.evaluation.evaluate import HEADLINE, Answers, answer
from leanrec.evaluation.protocol import Protocol, Split, evaluate_scores, load_protocol, ndcg_per_user
from leanrec.files import read_json, write_json
from leanrec.models.recommender import load_model
from leanrec.training.job import CURVES_FILE
from leanrec.training.train import train_models

STARTS_FILE = "starts.json"
"""Of the model folder, where two models were trained."""
WARM, FULL = "warm", "full"
SPLITS: tuple[Split, Split] = ("valid", "test")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One of the two models, and what its training took."""

    folder: Path
    seconds: float
    """Of the whole training: processes and libraries to start, reading, learning, writing."""
    summary: dict[str, Any]


def train_from_starts(
    settings: TrainingSettings,
    *,
    features: Path,
    training_set: Path,
    output: Path,
    warm_start: Path | None,
    compare_with_full: bool,
) -> dict[str, Any]:
    """Train as `train_models` does; with `compare_with_full` a second model, from nothing, beside a warm one.

    Args:
        settings: the section `training`.
        features: the features folder.
        training_set: the training set.
        output: folder to write: the model that goes on, and `starts.json` where two were trained.
        warm_start: the `release` folder to go on from; None: from nothing, and there is nothing to compare.
        compare_with_full: `retraining.compare_with_full`.

    Answers the summary of the model that goes on. One that was killed trains the warm model again and takes
    the full one's checkpoint up.
    """
    inputs = {"features": features, "training_set": training_set}
    if warm_start is None or not compare_with_full:
        return train_models(settings, **inputs, output=output, warm_start=warm_start)
    beside = output.parent / f"{output.name}.{FULL}"
    apart = settings
    if settings.checkpoint:
        apart = settings.model_copy(update={"checkpoint": str(Path(settings.checkpoint) / FULL)})
    try:
        trained = {
            WARM: _timed(
                output, lambda: train_models(settings, **inputs, output=output, warm_start=warm_start)
            ),
            FULL: _timed(beside, lambda: train_models(apart, **inputs, output=beside)),
        }
        comparison = compare_starts(trained, features=features, training_set=training_set)
        chosen = comparison["chosen"]
        if chosen == FULL:
            shutil.rmtree(output)
            beside.rename(output)
        write_json(output / STARTS_FILE, comparison)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        if settings.checkpoint:
            with suppress(OSError):
                Path(settings.checkpoint).rmdir()
    return {**trained[chosen].summary, "start": chosen}


def compare_starts(trained: dict[str, Trained], *, features: Path, training_set: Path) -> dict[str, Any]:
    """The content of `starts.json`: both models' figures, their paired differences, and which goes on."""
    figures: dict[str, dict[str, Any]] = {start: {} for start in (WARM, FULL)}
    differences: dict[str, dict[str, Interval]] = {}
    for split in SPLITS:
        protocol = load_protocol(features, training_set, split)
        answers = {start: answer(load_model(each.folder), protocol) for start, each in trained.items()}
        for start, found in figures.items():
            found[split] = _figures(answers[start], protocol)
        differences[split] = _differences(answers[FULL], answers[WARM], protocol)
    chosen, reason = choose_start(differences["valid"][HEADLINE])
    return {
        "chosen": chosen,
        "reason": reason,
        "starts": {
            start: {"seconds": each.seconds, "epochs": _epochs(each.folder), **figures[start]}
            for start, each in trained.items()
        },
        "full_less_warm": {
            split: {name: asdict(interval) for name, interval in found.items()}
            for split, found in differences.items()
        },
    }


def choose_start(full_less_warm: Interval) -> tuple[str, str]:
    """Which model goes on, and why, by NDCG@10 on the split `valid`; a pure function.

    The warm one, unless the full one is better beyond doubt: what is known stays known, and lists change less
    from release to release. A full one within the interval is better by chance as likely as not.
    """
    seen = f"{full_less_warm.value:+.4f}, 95 % {full_less_warm.low:+.4f} to {full_less_warm.high:+.4f}"
    if full_less_warm.low > 0:
        return FULL, f"full training is better beyond doubt: NDCG@10 on the valid split {seen}"
    return WARM, f"full training is not better beyond doubt: NDCG@10 on the valid split {seen}"


def _timed(folder: Path, train: Callable[[], dict[str, Any]]) -> Trained:
    clock = time.perf_counter()
    summary = train()
    return Trained(folder=folder, seconds=time.perf_counter() - clock, summary=summary)


def _epochs(folder: Path) -> dict[str, int]:
    return {model: len(epochs) for model, epochs in read_json(folder / CURVES_FILE).items()}


def _figures(answers: Answers, protocol: Protocol) -> dict[str, Any]:
    """NDCG@10 and AUC with their intervals, log loss, on one split."""
    pairs = protocol.pairs
    return {
        HEADLINE: asdict(bootstrap_mean(ndcg_per_user(answers.chain, protocol))),
        "auc": asdict(bootstrap_auc(pairs.liked, answers.like, pairs.user)),
        "log_loss": evaluate_scores(answers.like, answers.rating, protocol)["log_loss"],
        "num_users": len(protocol.relevant),
        "num_pairs": int(pairs.liked.size),
    }


def _differences(full: Answers, warm: Answers, protocol: Protocol) -> dict[str, Interval]:
    """Full less warm, on the same users and pairs."""
    pairs = protocol.pairs
    lists = (ndcg_per_user(each.chain, protocol) for each in (full, warm))
    return {
        HEADLINE: bootstrap_difference(*lists),
        "auc": bootstrap_auc_difference(pairs.liked, full.like, warm.like, pairs.user),
    }
