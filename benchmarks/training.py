"""Click-through training on a CPU beside FuxiCTR and torch-rechub: impressions a second, at equal AUC.

The impressions are made up and categorical alone: ten fields of 5 to 5,000 values, few of which are
frequent; every value has a bias and a vector of four numbers, and the log odds of a click are the biases and
the dot products of all pairs, on a scale of their own. All train DCNv2 and DeepFM with the same widths, batch
size, epochs and optimizer (Adam), each in a process of its own and with its own data loader, in turns.
Timed are whole epochs, loading of batches included; AUC is of impressions that nobody trained on, after two
epochs, for a third one lowered all of them. What the processor allows is measured in the same run: the matrix
products of the layers alone, which everybody has to compute.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.peers.environment import peer_python
from leanrec.errors import HostError
from leanrec.evaluation.metrics import auc

CARDINALITIES = (5_000, 2_000, 1_000, 500, 200, 100, 50, 20, 10, 5)
NUM_TRAIN, NUM_TEST, ROUNDS = 200_000, 100_000, 3
SETTINGS: dict[str, Any] = {
    "dim": 10,
    "hidden": [400, 400, 400],
    "cross_layers": 3,
    "epochs": 2,
    "batch_size": 4096,
    "learning_rate": 1e-3,
}
MODELS = ("dcn_v2", "deep_fm")
OURS, FLOAT32 = "leanrec", "leanrec_float32"
PEERS = ("fuxictr", "torch_rechub")
ROOT = Path(__file__).parents[1]
SEED = 1


class Trained(NamedTuple):
    """What one process made of one job."""

    samples_per_s: float
    """Of the median epoch."""
    auc: float
    told: dict[str, Any]


def measure(
    num_train: int = NUM_TRAIN,
    num_test: int = NUM_TEST,
    rounds: int = ROUNDS,
) -> dict[str, Any]:
    """Samples a second of all four, model by model."""
    contenders = (OURS, FLOAT32, *PEERS)
    with tempfile.TemporaryDirectory(prefix="leanrec-bench-") as work:
        data = Path(work) / "impressions.npz"
        np.savez(data, **draw(num_train, num_test))
        trained: dict[tuple[str, str], list[Trained]] = {}
        for round_number in range(rounds):
            for model in MODELS:
                for name in contenders:
                    job = {**SETTINGS, "model": model, "seed": SEED + round_number}
                    trained.setdefault((model, name), []).append(_train(name, job, data))
    figures = {model: _compare({name: trained[model, name] for name in contenders}) for model in MODELS}
    worst = min(figures.values(), key=lambda found: found["ratio"])
    return {
        "name": "training",
        "ours": worst["samples_per_s"][OURS],
        "baseline": worst["samples_per_s"][worst["faster_peer"]],
        "ratio": worst["ratio"],
        "unit": "impressions a second in the median epoch, of the model where we lead least",
        "models": figures,
        "settings": {
            **SETTINGS,
            "cardinalities": CARDINALITIES,
            "train": num_train,
            "test": num_test,
            "rounds": rounds,
            "threads": os.cpu_count(),
            "optimizer": "Adam",
            "versions": {name: trained[MODELS[0], name][0].told["versions"] for name in contenders},
        },
    }


def draw(num_train: int, num_test: int) -> dict[str, np.ndarray]:
    """Impressions: train and test [E, F] int64, train_clicked and test_clicked [E] float32."""
    random = np.random.default_rng(SEED)
    number = num_train + num_test
    fields = np.stack(
        [(size * random.random(number) ** 3).astype(np.int64) for size in CARDINALITIES], axis=1
    )
    biases, vectors = np.zeros(number), np.zeros((len(CARDINALITIES), number, 4))
    for i, size in enumerate(CARDINALITIES):
        biases += random.normal(size=size)[fields[:, i]]
        vectors[i] = random.normal(size=(size, 4))[fields[:, i]]
    products = (vectors.sum(axis=0) ** 2 - (vectors**2).sum(axis=0)).sum(axis=1) / 2
    logit = biases / biases.std() + products / products.std() - 1.5
    clicked = (random.random(number) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    return {
        "train": fields[:num_train],
        "test": fields[num_train:],
        "train_clicked": clicked[:num_train],
        "test_clicked": clicked[num_train:],
    }


def _train(name: str, job: dict[str, Any], data: Path) -> Trained:
    """Let `name` do the job in a process of its own; a HostError with its last words where it failed."""
    threads = os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="leanrec-bench-", dir=data.parent) as folder:
        files = {key: str(Path(folder) / key) for key in ("predictions.npy", "outcome.json", "job.json")}
        paths = {"predictions": files["predictions.npy"], "outcome": files["outcome.json"], "data": str(data)}
        job = job | paths | {"cardinalities": CARDINALITIES, "threads": threads}
        if name == FLOAT32:
            job["precision"] = "float32"
        Path(files["job.json"]).write_text(json.dumps(job), encoding="utf-8")
        done = subprocess.run(
            [*_command(name), files["job.json"]],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT if name in (OURS, FLOAT32) else folder,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        if done.returncode:
            words = (done.stderr.strip() or "it left no word").splitlines()[-1]
            raise HostError(f"{name} ended with status {done.returncode} while it trained: {words}")
        told = json.loads(Path(files["outcome.json"]).read_text("utf-8"))
        predictions = np.load(files["predictions.npy"]).reshape(-1)
    with np.load(data) as arrays:
        num_train, clicked = len(arrays["train"]), arrays["test_clicked"] > 0
    seconds = statistics.median(told.pop("seconds"))
    return Trained(num_train / seconds, auc(clicked, predictions), told)


def _command(name: str) -> list[str]:
    if name in PEERS:
        folder = ROOT / "benchmarks" / "peers" / name
        return [str(peer_python(folder / "requirements.txt")), str(folder / "peer.py")]
    return [sys.executable, "-m", "benchmarks.click_worker"]


def _compare(trained: dict[str, list[Trained]]) -> dict[str, Any]:
    """Medians over the rounds, and ours against the faster peer's: ratio above 1 means that we are faster."""
    speed = {name: statistics.median(t.samples_per_s for t in turns) for name, turns in trained.items()}
    judged = {name: statistics.median(t.auc for t in turns) for name, turns in trained.items()}
    faster = max(PEERS, key=lambda name: speed[name])
    most = {
        name: statistics.median(t.told["products_per_s"] for t in trained[name]) for name in (OURS, FLOAT32)
    }
    return {
        "samples_per_s": speed,
        "auc": judged,
        "faster_peer": faster,
        "ratio": speed[OURS] / speed[faster],
        "ratio_float32": speed[FLOAT32] / speed[faster],
        "ceiling": {
            "samples_per_s": most,
            "ratio": {name: value / speed[faster] for name, value in most.items()},
            "reached": {name: speed[name] / value for name, value in most.items()},
            "what": "the matrix products of our layers alone, outputs and gradients, in our number format",
        },
        "auc_difference": judged[OURS] - judged[faster],
        "auc_of_rounds": {name: [t.auc for t in turns] for name, turns in trained.items()},
    }
