"""The step `evaluate_models`: judge the model and the baselines by one protocol, and hold the gate.

The figures are of the plain float32 model, in the process; what compression and serving change is
measured against them in later steps.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from leanrec.config import EvaluationSettings
from leanrec.evaluation import metrics
from leanrec.evaluation.baselines import Baseline, recommend_by_neighbours, recommend_popular
from leanrec.evaluation.bootstrap import bootstrap_auc, bootstrap_difference, bootstrap_mean
from leanrec.evaluation.lists import best_items, user_batches
from leanrec.evaluation.metrics import Floats, Ints
from leanrec.evaluation.protocol import (
    HEADLINE_K,
    Protocol,
    evaluate_lists,
    evaluate_scores,
    load_protocol,
    ndcg_per_user,
)
from leanrec.evaluation.rows import Tensors
from leanrec.evaluation.segments import evaluate_segments
from leanrec.files import atomic_directory, write_json
from leanrec.gates import Check, above, at_most, write_gate
from leanrec.journal import report_progress, step
from leanrec.models.inputs import UserInputs
from leanrec.models.recommender import Recommender, load_model

STEP = "evaluate_models"
EVALUATION_FILE = "evaluation.json"
CHAIN, RETRIEVER, POPULARITY, ITEM_KNN = "chain", "retriever", "popularity", "item_knn"
HEADLINE = f"ndcg@{HEADLINE_K}"

REQUESTS_AT_ONCE = 128
"""Requests that the model answers at a time; each makes it rank hundreds of candidates."""

PAIRS_AT_ONCE = 4096
"""Rated pairs that the ranker scores at a time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """What the model answers to a protocol."""

    chain: Ints
    """Lists of retriever and ranker together, [B, K]."""
    retriever: Ints
    """Lists of the retriever alone, [B, K]."""
    like: Floats
    """P(like) of each rated pair, [P]."""
    rating: Floats
    """Expected rating of each rated pair, [P]."""


@step(STEP)
def evaluate_models(
    settings: EvaluationSettings, *, model: Path, features: Path, training_set: Path, output: Path
) -> bool:
    """Write the `evaluation` folder: `evaluation.json` (the figures) and `gate.json`; True when it passes.

    Raises an ExportError or DataError when an artifact cannot be read, a figure is not a number or the
    test split cannot be judged.
    """
    protocol = load_protocol(features, training_set, "test")
    valid = load_protocol(features, training_set, "valid")
    report_progress(STEP, 1, 4, f"{len(protocol.relevant)} users, {protocol.pairs.liked.size} rated pairs")
    answers = answer(load_model(model), protocol)
    report_progress(STEP, 2, 4, "model has answered")
    length = answers.chain.shape[1]
    baselines = {
        POPULARITY: recommend_popular(protocol, valid, length),
        ITEM_KNN: recommend_by_neighbours(protocol, valid, length),
    }
    report_progress(STEP, 3, 4, "baselines have answered")
    figures = _figures(settings, protocol, answers, baselines)
    with atomic_directory(output) as folder:
        write_json(folder / EVALUATION_FILE, figures)
        passed = write_gate(folder, "evaluation", decide(settings, figures))
    report_progress(STEP, 4, 4, f"{HEADLINE} {figures['retrieval'][CHAIN][HEADLINE]:.4f}")
    return passed


def decide(settings: EvaluationSettings, figures: dict[str, Any]) -> list[Check]:
    """The gate's checks on the content of `evaluation.json`; a pure function of values."""
    ours = figures["retrieval"][CHAIN][HEADLINE]
    checks = [
        above(
            f"{HEADLINE} against {name}",
            ours,
            figures["retrieval"][name][HEADLINE],
            f"the model must be better than {name}: tune training, or do not release it",
        )
        for name in settings.must_beat
    ]
    detail = "P(like) is not to be read as a probability; train longer or lower the learning rate"
    bound = settings.max_calibration_error
    ece = at_most("expected calibration error of P(like)", figures["ranking"]["ece"], bound, detail)
    return [*checks, ece]


@torch.inference_mode()
def answer(model: Recommender, protocol: Protocol) -> Answers:
    """The model's lists and scores, in batches of users so that memory stays bounded."""
    chain, retriever = [], []
    for part in user_batches(len(protocol.relevant), protocol.num_items, at_most=REQUESTS_AT_ONCE):
        request = _tensors(protocol.requests, part)
        chain.append(model(**request)[0].numpy())
        seen = request.pop("seen").numpy()
        scores = model.retriever.user_vectors(UserInputs(**request)) @ model.item_vectors.T
        retriever.append(best_items(scores.numpy(), seen, model.top_k))
    ranker = model.served_ranker().eval()
    like, rating = [], []
    for start in range(0, protocol.pairs.liked.size, PAIRS_AT_ONCE):
        _, likes, ratings = ranker(**_tensors(protocol.pairs.inputs, slice(start, start + PAIRS_AT_ONCE)))
        like.append(likes[:, 0].double().numpy())
        rating.append(ratings[:, 0].double().numpy())
    return Answers(
        chain=np.concatenate(chain),
        retriever=np.concatenate(retriever),
        like=np.concatenate(like),
        rating=np.concatenate(rating),
    )


def _tensors(tensors: Tensors, part: slice) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(values[part])) for name, values in tensors.items()}


def _figures(
    settings: EvaluationSettings, protocol: Protocol, answers: Answers, baselines: dict[str, Baseline]
) -> dict[str, Any]:
    """The content of `evaluation.json`."""
    lists = {
        CHAIN: answers.chain,
        RETRIEVER: answers.retriever,
        **{name: baseline.item_index for name, baseline in baselines.items()},
    }
    curve = metrics.calibration_curve(protocol.pairs.liked, answers.like)
    return {
        "protocol": describe(protocol),
        "retrieval": {name: evaluate_lists(items, protocol, settings.ks) for name, items in lists.items()},
        "ranking": {
            **evaluate_scores(answers.like, answers.rating, protocol),
            "calibration": [asdict(point) for point in curve],
            "roc": metrics.roc_curve(protocol.pairs.liked, answers.like),
        },
        "intervals": _intervals(lists, answers, protocol),
        "segments": [asdict(s) for s in evaluate_segments(answers.chain, answers.like, protocol)],
        "must_beat": list(settings.must_beat),
        "baselines": {
            name: {"chosen_on_valid": baseline.chosen, f"valid_{HEADLINE}": baseline.valid_ndcg}
            for name, baseline in baselines.items()
        },
    }


def _intervals(lists: dict[str, Ints], answers: Answers, protocol: Protocol) -> dict[str, Any]:
    """95 % bootstrap intervals: NDCG@10 of each, of the chain less each other one, and AUC."""
    per_user = {name: ndcg_per_user(items, protocol) for name, items in lists.items()}
    others = [name for name in lists if name != CHAIN]
    pairs = protocol.pairs
    return {
        HEADLINE: {name: asdict(bootstrap_mean(values)) for name, values in per_user.items()},
        f"{HEADLINE}_difference": {
            name: asdict(bootstrap_difference(per_user[CHAIN], per_user[name])) for name in others
        },
        "auc": asdict(bootstrap_auc(pairs.liked, answers.like, pairs.user)),
    }


def describe(protocol: Protocol) -> dict[str, Any]:
    """The protocol's facts: how many were asked, about what."""
    num_seen = (protocol.requests["seen"] != 0).sum(axis=1)
    return {
        "split": protocol.split,
        "num_users": len(protocol.relevant),
        "num_relevant": int(protocol.num_relevant.sum()),
        "num_items": protocol.num_items - 1,
        "mean_candidates": float(protocol.num_items - 1 - num_seen.mean()),
        "num_pairs": int(protocol.pairs.liked.size),
        "liked_share": float(protocol.pairs.liked.mean()),
        "rule": (
            "full ranking: each user with a liked item held out, all items not seen before as candidates, "
            "the user row as of just before the first event held out"
        ),
    }
