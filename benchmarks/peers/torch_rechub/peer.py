"""torch-rechub on impressions: `python peer.py JOB.json`, in an environment of its own.

Its own data loader, models (their deep part always has batch normalization), optimizer and training loop.
JOB.json is that of ../fuxictr/peer.py.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_rechub.basic.features import SparseFeature
from torch_rechub.models.ranking import DCNv2, DeepFM
from torch_rechub.trainers import CTRTrainer
from torch_rechub.utils.data import DataGenerator

WORKERS = 1
"""Processes that load data beside the training: faster here than its default of none."""


def make_model(job: dict[str, Any]) -> torch.nn.Module:
    """Its own model of that name."""
    sizes = enumerate(job["cardinalities"])
    fields = [SparseFeature(f"field_{i}", vocab_size=size, embed_dim=job["dim"]) for i, size in sizes]
    deep = {"dims": list(job["hidden"]), "activation": "relu", "dropout": 0.0}
    if job["model"] == "deep_fm":
        return DeepFM(fields, fields, deep)
    return DCNv2(fields, job["cross_layers"], deep, model_structure="parallel", use_low_rank_mixture=False)


def columns(rows: np.ndarray) -> dict[str, np.ndarray]:
    """A field a column."""
    return {f"field_{i}": np.ascontiguousarray(column) for i, column in enumerate(rows.T)}


def main(path: str) -> None:
    """Train and predict as the job says."""
    job = json.loads(Path(path).read_text("utf-8"))
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    with np.load(job["data"]) as data:
        train, train_clicked = columns(data["train"]), data["train_clicked"]
        test, test_clicked = columns(data["test"]), data["test_clicked"]
    loader, _, judged = DataGenerator(train, train_clicked).generate_dataloader(
        x_val=test,
        y_val=test_clicked,
        x_test=test,
        y_test=test_clicked,
        batch_size=job["batch_size"],
        num_workers=WORKERS,
    )
    model = make_model(job)
    trainer = CTRTrainer(
        model,
        optimizer_params={"lr": job["learning_rate"], "weight_decay": 0.0},
        model_path=str(Path(job["outcome"]).parent),
    )
    seconds = []
    for _ in range(job["epochs"]):
        started = time.perf_counter()
        trainer.train_one_epoch(loader)
        seconds.append(time.perf_counter() - started)
    np.save(job["predictions"], np.asarray(trainer.predict(model, judged)))
    versions = {name: version(name) for name in ("torch-rechub", "torch")}
    told = {"seconds": seconds, "versions": versions, "workers": WORKERS}
    Path(job["outcome"]).write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
