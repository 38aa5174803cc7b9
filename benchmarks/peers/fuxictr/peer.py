"""FuxiCTR on impressions: `python peer.py JOB.json`, in an environment of its own.

Its own data loader, embeddings, blocks, optimizer and training loop. Its package ships the blocks of DCNv2
and DeepFM and not the two models (they are examples in its repository), so they are put together here.

JOB.json: data (npz: train, test, train_clicked, test_clicked), cardinalities, model, dim, hidden,
cross_layers, epochs, batch_size, learning_rate, threads, seed, predictions (npy to write), outcome (json).
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
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.layers import CrossNetV2, FactorizationMachine, FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import seed_everything
from torch import nn

WORKERS = 1
"""Processes that load data beside the training; its data loader's default."""


class Model(BaseModel):
    """What both models share: embeddings, a deep network, a clock around its own epochs."""

    def __init__(self, features: FeatureMap, job: dict[str, Any]) -> None:
        super().__init__(features, verbose=0, model_root=str(Path(job["outcome"]).parent), metrics=["AUC"])
        self.seconds: list[float] = []
        self.embedding_layer = FeatureEmbedding(features, job["dim"])
        self.width = features.sum_emb_out_dim()

    def deep(self, job: dict[str, Any], output: int | None) -> MLP_Block:
        """The deep network; `output` None: its last hidden layer."""
        return MLP_Block(self.width, list(job["hidden"]), output_dim=output)

    def start(self, job: dict[str, Any]) -> None:
        """What its models do last when they are made."""
        self.compile("adam", "binary_crossentropy", job["learning_rate"])
        self.reset_parameters()
        self.model_to_device()

    def train_epoch(self, data: Any) -> None:
        """An epoch of its own, timed."""
        started = time.perf_counter()
        super().train_epoch(data)
        self.seconds.append(time.perf_counter() - started)

    def eval_step(self) -> None:
        """Nothing: all epochs are trained and only the last is judged, elsewhere."""

    def load_weights(self, checkpoint: str) -> None:
        """Nothing, for the same reason."""


class DCNv2(Model):
    """Cross network beside deep network."""

    def __init__(self, features: FeatureMap, job: dict[str, Any]) -> None:
        super().__init__(features, job)
        self.cross = CrossNetV2(self.width, job["cross_layers"])
        self.dnn = self.deep(job, None)
        self.over = nn.Linear(self.width + job["hidden"][-1], 1)
        self.start(job)

    def forward(self, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
        """A batch in, `y_pred` out."""
        row = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
        answered = self.over(torch.cat([self.cross(row), self.dnn(row)], dim=-1))
        return {"y_pred": self.output_activation(answered)}


class DeepFM(Model):
    """Factorization machine beside deep network."""

    def __init__(self, features: FeatureMap, job: dict[str, Any]) -> None:
        super().__init__(features, job)
        self.fm = FactorizationMachine(features)
        self.dnn = self.deep(job, 1)
        self.start(job)

    def forward(self, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
        """A batch in, `y_pred` out."""
        values = self.get_inputs(inputs)
        vectors = self.embedding_layer(values)
        answered = self.fm(values, vectors) + self.dnn(vectors.flatten(start_dim=1))
        return {"y_pred": self.output_activation(answered)}


def feature_map(job: dict[str, Any], folder: Path) -> FeatureMap:
    """The fields as it wants them described."""
    features = FeatureMap("impressions", str(folder))
    for i, size in enumerate(job["cardinalities"]):
        features.features[f"field_{i}"] = {"type": "categorical", "source": "", "vocab_size": size}
    features.labels = ["clicked"]
    features.default_emb_dim = job["dim"]
    features.num_fields = features.get_num_fields()
    features.total_features = sum(job["cardinalities"])
    features.set_column_index()
    return features


def main(path: str) -> None:
    """Train and predict as the job says."""
    job = json.loads(Path(path).read_text("utf-8"))
    torch.set_num_threads(job["threads"])
    seed_everything(job["seed"])
    folder = Path(job["outcome"]).parent
    features = feature_map(job, folder)
    with np.load(job["data"]) as data:
        for split in ("train", "test"):
            columns = {f"field_{i}": column for i, column in enumerate(data[split].T)}
            np.savez(folder / f"fuxictr-{split}.npz", **columns, clicked=data[f"{split}_clicked"])
    loaders = RankDataLoader(
        features,
        stage="both",
        train_data=str(folder / "fuxictr-train.npz"),
        test_data=str(folder / "fuxictr-test.npz"),
        batch_size=job["batch_size"],
        data_format="npz",
        num_workers=WORKERS,
    )
    train, test = loaders[0], loaders[-1]
    model = {"dcn_v2": DCNv2, "deep_fm": DeepFM}[job["model"]](features, job)
    model.fit(train, epochs=job["epochs"])
    np.save(job["predictions"], model.predict(test))
    versions = {name: version(name) for name in ("fuxictr", "torch")}
    told = {"seconds": model.seconds, "versions": versions, "workers": WORKERS}
    Path(job["outcome"]).write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
