"""Ourselves on impressions, in a process of our own: `python -m benchmarks.click_worker JOB.json`.

JOB.json is that of peers/fuxictr/peer.py, with `precision` besides.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from leanrec.config.click_through import ClickThroughSettings
from leanrec.training.click_through import PART, Impressions, fit_clicks, number_format, predict_clicks

PRODUCTS_S = 2.0
"""Seconds for which the matrix products are timed."""


def main(path: str) -> None:
    """Train and predict as the job says."""
    job = json.loads(Path(path).read_text("utf-8"))
    torch.set_num_threads(job["threads"])
    settings = ClickThroughSettings.parse(
        {name: job[name] for name in ClickThroughSettings.model_fields if name in job}
    )
    with np.load(job["data"]) as data:
        train = Impressions(torch.from_numpy(data["train"]), torch.from_numpy(data["train_clicked"]))
        test = torch.from_numpy(data["test"])
    model, epochs = fit_clicks(train, job["cardinalities"], settings)
    np.save(job["predictions"], predict_clicks(model, test).numpy())
    told = {
        "seconds": [epoch.seconds for epoch in epochs],
        "products_per_s": products_per_s(model, number_format(settings.precision)),
        "versions": {"torch": torch.__version__},
    }
    Path(job["outcome"]).write_text(json.dumps(told), encoding="utf-8")


@torch.inference_mode()
def products_per_s(model: nn.Module, dtype: torch.dtype) -> float:
    """Impressions a second if training were nothing but the matrix products of the model's layers.

    Each layer has three: its outputs, the gradient of its inputs, that of its weights.
    """
    layers = [
        (torch.randn(PART, i, dtype=dtype), torch.randn(i, o, dtype=dtype), torch.randn(PART, o, dtype=dtype))
        for i, o in (layer.weight.shape[::-1] for layer in model.modules() if isinstance(layer, nn.Linear))
    ]

    def multiply() -> None:
        for inputs, weights, gradients in layers:
            inputs @ weights
            gradients @ weights.T
            inputs.T @ gradients

    multiply()
    number, started = 0, time.perf_counter()
    while time.perf_counter() - started < PRODUCTS_S:
        multiply()
        number += PART
    return number / (time.perf_counter() - started)


if __name__ == "__main__":
    main(sys.argv[1])
