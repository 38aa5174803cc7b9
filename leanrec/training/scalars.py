"""What Kubeflow shows of a training: numbers by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from leanrec.files import read_json
from leanrec.training.job import CURVES_FILE


def training_scalars(model: Path, summary: dict[str, Any]) -> dict[str, float]:
    """The numbers in `summary`, and of each model in the folder `model` how its training went.

    Of each model: epochs, seconds in all and by phase (data, embedding, ...), the last epoch's loss, learning
    rate and events a second, as far as it has them (a retriever that is fitted has no loss).
    """
    curves: dict[str, list[dict[str, Any]]] = read_json(Path(model) / CURVES_FILE)
    found = {name: value for name, value in summary.items() if not isinstance(value, bool | str)}
    for part, epochs in curves.items():
        found[f"{part}_epochs"] = len(epochs)
        found[f"{part}_seconds"] = sum(epoch["seconds"] for epoch in epochs)
        for name in ("loss", "learning_rate", "samples_per_s"):
            if name in epochs[-1]:
                found[f"{part}_{name}"] = epochs[-1][name]
        for phase in epochs[-1].get("phases", {}):
            # Epochs before a checkpoint of older code may have had other phases.
            found[f"{part}_{phase}_seconds"] = sum(epoch["phases"].get(phase, 0.0) for epoch in epochs)
    return {name: float(value) for name, value in found.items()}
