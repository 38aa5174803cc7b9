"""What Kubeflow shows of an evaluation: numbers by name, and the ROC curve of P(like)."""

from __future__ import annotations

from pathlib import Path

from leanrec.evaluation.evaluate import CHAIN, EVALUATION_FILE
from leanrec.files import read_json


def evaluation_scalars(evaluation: Path) -> dict[str, float]:
    """The figures of the whole chain in the folder `evaluation`, and the NDCG@10 of what it stands beside.

    `@` is `_at_` in the names, for tools that take letters, digits and underscores alone.
    """
    found = read_json(Path(evaluation) / EVALUATION_FILE)
    lists, ranking = found["retrieval"], found["ranking"]
    figures = {
        **lists[CHAIN],
        **{f"{name}_ndcg@10": each["ndcg@10"] for name, each in lists.items() if name != CHAIN},
        **{name: ranking[name] for name in ("auc", "log_loss", "rmse", "ece")},
    }
    return {name.replace("@", "_at_"): float(value) for name, value in figures.items()}


def roc_points(evaluation: Path) -> dict[str, list[float]]:
    """The ROC curve of P(like) in the folder `evaluation`: `fpr`, `tpr` and `threshold`, each [N]."""
    roc: dict[str, list[float]] = read_json(Path(evaluation) / EVALUATION_FILE)["ranking"]["roc"]
    return roc
