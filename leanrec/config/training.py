"""The two models and how they are trained."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from leanrec.config.section import Section
from leanrec.config.train_job import TrainJobSettings
from leanrec.config.zoo import RankerName, RetrieverName


class RetrieverSettings(Section):
    """The retriever: which, its sizes, and how it learns."""

    model: RetrieverName = "two_tower"
    """Its name in leanrec/models/retrieval."""
    dim: int = Field(default=64, ge=4)
    """Width of user and item vectors."""
    hidden: tuple[int, ...] = (128,)
    """Widths of the user tower's hidden layers."""
    epochs: int = Field(default=7, ge=1)
    """Passes over the training events, at most; early stopping may end sooner."""
    batch_size: int = Field(default=2048, ge=1)
    """Events a step, all processes together."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Of the dense part (Adam)."""
    table_learning_rate: float = Field(default=0.05, gt=0)
    """Of the embedding tables (Adagrad, fused in the backward pass)."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout in the user tower."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of the dense part."""
    temperature: float = Field(default=1.0, gt=0)
    """Softmax temperature."""
    disliked_weight: float = Field(default=0.3, ge=0, le=1)
    """Weight in the loss of an event whose rating is below the liked threshold."""
    full_softmax_items: int = Field(default=20_000, ge=1)
    """Largest catalogue over which the softmax is exact; larger ones are sampled."""
    softmax_negatives: int = Field(default=4096, ge=1)
    """Items drawn a step where the softmax is sampled."""
    patience: int = Field(default=3, ge=1)
    """Epochs without a better validation figure before training stops."""


class RankerSettings(Section):
    """The ranker: which, its sizes, and how it learns."""

    model: RankerName = "dcn_v2"
    """Its name in leanrec/models/ranking."""
    dim: int = Field(default=32, ge=4)
    """Width of its embedding tables."""
    cross_layers: int = Field(default=2, ge=1)
    """Cross layers."""
    hidden: tuple[int, ...] = (128, 64)
    """Widths of the deep part."""
    epochs: int = Field(default=3, ge=1)
    """Passes over the training events, at most."""
    batch_size: int = Field(default=2048, ge=1)
    """Events a step, all processes together."""
    negatives: int = Field(default=4, ge=1)
    """Items not seen drawn for each event seen."""
    hard_negatives: float = Field(default=0.5, ge=0, le=1)
    """Share of them drawn from the items that the retriever thinks best."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Of the dense part (Adam)."""
    table_learning_rate: float = Field(default=0.03, gt=0)
    """Of the embedding tables (Adagrad, fused in the backward pass)."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout in the deep part."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of the dense part."""
    disliked_weight: float = Field(default=0.3, ge=0, le=1)
    """Weight in the watch loss of an event whose rating is below the liked threshold."""
    watch_weight: float = Field(default=0.2, ge=0)
    """Weight of the watch head in the loss; the like head has 1."""
    rating_weight: float = Field(default=0.5, ge=0)
    """Weight of the rating head's squared error in the loss."""
    patience: int = Field(default=2, ge=1)
    """Epochs without a better validation figure before training stops."""


class TrainingSettings(Section):
    """How the two models are trained."""

    seed: int = 1
    """Seed of every random draw."""
    num_processes: int = Field(default=2, ge=1)
    """torchrun processes (GPUs on a GPU host)."""
    num_candidates: int = Field(default=200, ge=1)
    """Items that the retriever hands to the ranker."""
    top_k: int = Field(default=100, ge=1)
    """Items that a recommendation may hold at most (K)."""
    warm_start: Literal["release"] | None = None
    """What training goes on from: the stable release (there is none yet: from nothing), or nothing."""
    warm_epochs: int = Field(default=2, ge=1)
    """Passes over the training events, at most, of each model that goes on from a release."""
    checkpoint: str | None = None
    """Folder that keeps the state after each epoch, so that a killed run goes on; null: beside the output."""
    train_job: TrainJobSettings | None = None
    """Train on the nodes of a cluster by a Kubeflow TrainJob; null: on this machine."""
    retriever: RetrieverSettings = RetrieverSettings()
    ranker: RankerSettings = RankerSettings()

    @model_validator(mode="after")
    def _top_k_fits(self) -> Self:
        if self.top_k > self.num_candidates:
            raise ValueError(f"top_k {self.top_k} is above num_candidates {self.num_candidates}")
        return self
