"""The impressions of the training benchmark, and our own side of it in a process of its own."""

from __future__ import annotations

import numpy as np

from benchmarks import training


def test_impressions_fit_their_fields_and_some_are_clicked():
    data = training.draw(4000, 1000)
    assert data["train"].shape == (4000, len(training.CARDINALITIES)) and data["test"].shape[0] == 1000
    assert data["train"].min() == 0 and (data["train"].max(axis=0) < np.array(training.CARDINALITIES)).all()
    assert 0.05 < data["train_clicked"].mean() < 0.6


def test_speeds_are_held_against_the_faster_peer_and_against_the_matrix_products_alone():
    def trained(samples_per_s, products_per_s=0.0):
        return [training.Trained(samples_per_s, 0.7, {"products_per_s": products_per_s})]

    found = training._compare(
        {
            training.OURS: trained(60.0, 100.0),
            training.FLOAT32: trained(50.0, 80.0),
            "fuxictr": trained(40.0),
            "torch_rechub": trained(20.0),
        }
    )
    assert (found["faster_peer"], found["ratio"]) == ("fuxictr", 1.5)
    assert found["ceiling"]["ratio"] == {training.OURS: 2.5, training.FLOAT32: 2.0}
    assert found["ceiling"]["reached"] == {training.OURS: 0.6, training.FLOAT32: 0.625}


def test_our_own_process_tells_speed_and_auc(tmp_path):
    file = tmp_path / "impressions.npz"
    np.savez(file, **training.draw(6000, 2000))
    job = {**training.SETTINGS, "model": "deep_fm", "seed": 1, "hidden": [16], "batch_size": 256}
    trained = training._train(training.FLOAT32, job, file)
    assert trained.samples_per_s > 0 and trained.auc > 0.55 and trained.told["products_per_s"] > 0
