"""Ourselves on impressions, in a process of our own: `python -m benchmarks.click_worker JOB.json`.

JOB.json is that of peers/fuxictr/peer.py, with `precision` besides.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from leanrec.config.click_through import ClickThroughSettings
from leanrec.training.click_through import Impressions, fit_clicks, predict_clicks


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
    told = {"seconds": [epoch.seconds for epoch in epochs], "versions": {"torch": torch.__version__}}
    Path(job["outcome"]).write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
