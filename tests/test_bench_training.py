"""The impressions of the training benchmark, and our own side of it in a process of its own."""

from __future__ import annotations

import numpy as np

from benchmarks import training


def test_impressions_fit_their_fields_and_some_are_clicked():
    data = training.draw(4000, 1000)
    assert data["train"].shape == (4000, len(training.CARDINALITIES)) and data["test"].shape[0] == 1000
    assert data["train"].min() == 0 and (data["train"].max(axis=0) < np.array(training.CARDINALITIES)).all()
    assert 0.05 < data["train_clicked"].mean() < 0.6


def test_our_own_process_tells_speed_and_auc(tmp_path):
    file = tmp_path / "impressions.npz"
    np.savez(file, **training.draw(6000, 2000))
    job = {**training.SETTINGS, "model": "deep_fm", "seed": 1, "hidden": [16], "batch_size": 256}
    trained = training._train(training.FLOAT32, job, file)
    assert trained.samples_per_s > 0 and trained.auc > 0.55 and trained.told["products_per_s"] > 0
