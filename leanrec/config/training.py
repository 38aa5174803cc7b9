"""The two models and how they are trained."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from leanrec.config.optimizer import OptimizerSettings
from leanrec.config.section import Section, Widths
from leanrec.config.train_job import TrainJobSettings
from leanrec.config.zoo import (
    RANKER_DEFAULTS,
    RANKER_READ_BY,
    RETRIEVER_DEFAULTS,
    RETRIEVER_READ_BY,
    ALSSettings,
    BehaviourSequenceTransformerSettings,
    BPRSettings,
    CaserSettings,
    ContentBasedSettings,
    DINSettings,
    DLRMSettings,
    EASESettings,
    GRU4RecSettings,
    LightGCNSettings,
    NeighboursSettings,
    RankerName,
    RetrieverName,
    SASRecSettings,
)
from leanrec.errors import ConfigError


class ModelSettings(Section):
    """A model of the zoo: what nobody set is what suits the model that is named."""

    model_config = ConfigDict(allow_inf_nan=False)

    model: str
    defaults: ClassVar[dict[str, dict[str, Any]]]
    """Model -> the fields that it needs another default for."""
    read_by: ClassVar[dict[str, tuple[str, ...]]]
    """Field -> the models that read it, where not all do."""

    @classmethod
    def does_read(cls, model: str, field: str) -> bool:
        """Whether the value of `field` makes any difference to `model`."""
        return model in cls.read_by.get(field, (model,))

    def refuse_unread(self, where: str) -> None:
        """Raise a ConfigError for a field that is not as it is by default and that the model does not read.

        For what people write. What a program stored holds every field, as it was by default in its day.
        """
        for name, field in type(self).model_fields.items():
            if not self.does_read(self.model, name) and getattr(self, name) != field.get_default():
                others = ", ".join(self.read_by[name])
                raise ConfigError(
                    f"setting {where!r}: model {self.model!r} does not read {name!r}, which is set; leave "
                    f"that out, or take a model that reads it: {others}"
                )

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_model(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {**cls.defaults.get(str(values.get("model")), {}), **values}


class RetrieverSettings(ModelSettings):
    """The retriever: which, its sizes, and how it learns."""

    defaults, read_by = RETRIEVER_DEFAULTS, RETRIEVER_READ_BY
    model: RetrieverName = "two_tower"
    """Its name in leanrec/models/retrieval."""
    dim: int = Field(default=64, ge=4)
    """Width of user and item vectors."""
    hidden: Widths = (128,)
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
    """Weight decay of the dense part."""
    optimizer: OptimizerSettings = OptimizerSettings()
    temperature: float = Field(default=1.0, gt=0)
    """Softmax temperature."""
    disliked_weight: float = Field(default=0.3, ge=0, le=1)
    """Weight in the loss of an event whose rating is below the liked threshold."""
    loss: Literal["softmax", "bce", "bpr", "gbce"] = "softmax"
    """What an event teaches: the item taken up against the catalogue (softmax) or against single items (bce,
    bpr); gbce is bce calibrated for the share of the catalogue that is drawn."""
    negatives: Literal["uniform", "popularity", "in_batch", "hard"] = "uniform"
    """Items not taken up: drawn uniformly, by number of events, the batch's own, or the best of a draw."""
    full_softmax_items: int = Field(default=20_000, ge=0)
    """Largest catalogue over which the softmax is exact; larger ones are sampled. 0: always sampled."""
    softmax_negatives: int = Field(default=4096, ge=1)
    """Items drawn a step wherever a loss is sampled; all events of the step share them."""
    num_negatives: int = Field(default=64, ge=1)
    """Items not taken up that an event counts (bce, gbce), or that it keeps of those drawn (hard)."""
    calibration: float = Field(default=0.75, ge=0, le=1)
    """t of gbce: 0 leaves the probabilities of plain bce, 1 brings them to those of the full catalogue."""
    patience: int = Field(default=3, ge=1)
    """Epochs without a better validation figure before training stops."""
    light_gcn: LightGCNSettings = LightGCNSettings()
    gru4rec: GRU4RecSettings = GRU4RecSettings()
    caser: CaserSettings = CaserSettings()
    sasrec: SASRecSettings = SASRecSettings()
    content_based: ContentBasedSettings = ContentBasedSettings()
    neighbours: NeighboursSettings = NeighboursSettings()
    ease: EASESettings = EASESettings()
    als: ALSSettings = ALSSettings()
    bpr: BPRSettings = BPRSettings()

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.model == "sasrec" and self.dim % self.sasrec.heads:
            raise ValueError(
                f"dim {self.dim} cannot be shared out to sasrec.heads {self.sasrec.heads}; make it a multiple"
            )
        return self

    @model_validator(mode="after")
    def _loss_and_negatives_fit(self) -> Self:
        if self.loss == "softmax" and self.negatives != "uniform" and self.full_softmax_items > 0:
            raise ValueError(
                f"negatives {self.negatives!r} are a sample, and full_softmax_items "
                f"{self.full_softmax_items} asks for the exact softmax; set full_softmax_items: 0, or "
                "negatives: uniform"
            )
        if self.loss == "gbce" and self.negatives != "uniform":
            raise ValueError(
                f"gbce is calibrated for uniform negatives, not for {self.negatives!r}; "
                "set negatives: uniform, or loss: bce"
            )
        if self.negatives == "hard" and self.num_negatives > self.softmax_negatives:
            raise ValueError(
                f"num_negatives {self.num_negatives} is above softmax_negatives {self.softmax_negatives}, "
                "the draw that the hard ones are the best of; lower the first or raise the second"
            )
        return self


class RankerSettings(ModelSettings):
    """The ranker: which, its sizes, and how it learns."""

    defaults, read_by = RANKER_DEFAULTS, RANKER_READ_BY
    model: RankerName = "dcn_v2"
    """Its name in leanrec/models/ranking."""
    task: Literal["multi_task", "click", "rating"] = "multi_task"
    """What is learnt, and orders lists. multi_task: watch, like and rating, by P(watch) * P(like); click: the
    same without a rating loss; rating: the rating's squared error alone, by the predicted rating."""
    dim: int = Field(default=32, ge=4)
    """Width of its embedding tables."""
    cross_layers: int = Field(default=2, ge=1)
    """Cross layers."""
    hidden: Widths = (128, 64)
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
    """Weight decay of the dense part."""
    optimizer: OptimizerSettings = OptimizerSettings()
    disliked_weight: float = Field(default=0.3, ge=0, le=1)
    """Weight in the watch loss of an event whose rating is below the liked threshold."""
    watch_weight: float = Field(default=0.2, ge=0)
    """Weight of the watch head in the loss; the like head has 1."""
    rating_weight: float = Field(default=0.5, ge=0)
    """Weight of the rating head's squared error in the loss."""
    patience: int = Field(default=2, ge=1)
    """Epochs without a better validation figure before training stops."""
    dlrm: DLRMSettings = DLRMSettings()
    din: DINSettings = DINSettings()
    behaviour_sequence_transformer: BehaviourSequenceTransformerSettings = (
        BehaviourSequenceTransformerSettings()
    )

    @model_validator(mode="after")
    def _heads_share_out_dim(self) -> Self:
        heads = self.behaviour_sequence_transformer.heads
        if self.model == "behaviour_sequence_transformer" and self.dim % heads:
            raise ValueError(
                f"behaviour_sequence_transformer.heads {heads} do not share out dim {self.dim} evenly; "
                "make dim a multiple of heads"
            )
        return self


ShardingName = Literal["table_wise", "row_wise", "column_wise", "grid", "data_parallel"]


class TrainingSettings(Section):
    """How the two models are trained."""

    seed: int = 1
    """Seed of every random draw."""
    num_processes: int = Field(default=2, ge=1)
    """torchrun processes (GPUs on a GPU host)."""
    sharding: dict[str, ShardingName] = Field(default_factory=dict)
    """Table (both models') -> how it is sharded over the processes; those not named are the planner's, which
    cuts none into a grid (blocks of rows and columns) and leaves none whole in each process (data_parallel).
    """
    replicas: int = Field(default=1, ge=1)
    """Groups of processes that each have all tables, sharded within the group (2D parallelism)."""
    sync_every: int = Field(default=10, ge=1)
    """Steps of an epoch after which the tables of the replicas are averaged, as they are at its end."""
    balance: Literal["equal", "measured"] = "equal"
    """How a batch is shared out: equal parts, or by each process's speed, measured before every epoch."""
    exchange: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    """In what vectors and their gradients travel between processes; bf16 between GPUs alone, int8 with
    gradients in fp16."""
    plain_tables: Literal["device", "host"] = "device"
    """Where each process keeps the tables of the plain models, with which candidates are drawn and figures
    taken: on its device; or on its host, so that a GPU holds its part of a table alone, but waits for rows.
    """
    table_precision: Literal["fp32", "fp16"] = "fp32"
    """In what sharded tables are kept while they train; Adagrad's sums stay in fp32."""
    table_cache: float | None = Field(default=None, gt=0, lt=1)
    """Share of the rows of sharded tables that a GPU caches, with all of them in its host's memory (TorchRec
    calls it UVM caching); null: they are on the GPU. On CPUs it makes no difference."""
    prefetch: bool = False
    """Make the next batch, draws included, in a second thread while the present one is learnt from."""
    num_candidates: int = Field(default=200, ge=1)
    """Items that the retriever hands to the ranker."""
    top_k: int = Field(default=100, ge=1)
    """Items that a recommendation may hold at most (K)."""
    warm_start: Literal["release"] | None = None
    """What training goes on from: the stable release (there is none yet: from nothing), or nothing."""
    warm_epochs: int = Field(default=2, ge=1)
    """Passes over the training events, at most, of each model that goes on from a release."""
    checkpoint: str | None = None
    """Folder of the checkpoints, from which a killed run goes on; null: beside the output."""
    checkpoint_every_s: float = Field(default=600, ge=0)
    """Seconds between two checkpoints within an epoch; 0: after each epoch only."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """The newest checkpoints of a model that stay: where one is corrupt, the one before it is taken up."""
    resume: Literal["same", "other_pace"] = "same"
    """Which checkpoint a run goes on from: one of these very settings, or also one made at another pace
    (learning rates, weight decay, schedule, clipping, precision, epochs or patience)."""
    max_restarts: int = Field(default=2, ge=0)
    """How often training goes on from its newest checkpoint by itself when a process was killed."""
    tensorboard: str | None = None
    """Folder for TensorBoard events, a folder a model; null: none."""
    profile: str | None = None
    """Folder for the profiler's traces of some steps of each model's first epoch; null: none."""
    train_job: TrainJobSettings | None = None
    """Train on the nodes of a cluster by a Kubeflow TrainJob; null: on this machine."""
    retriever: RetrieverSettings = RetrieverSettings()
    ranker: RankerSettings = RankerSettings()

    def refuse_unread(self) -> None:
        """Raise a ConfigError for what somebody set for a model that does not read it."""
        self.retriever.refuse_unread("training.retriever")
        self.ranker.refuse_unread("training.ranker")

    @model_validator(mode="after")
    def _top_k_fits(self) -> Self:
        if self.top_k > self.num_candidates:
            raise ValueError(f"top_k {self.top_k} is above num_candidates {self.num_candidates}")
        return self

    @model_validator(mode="after")
    def _vectors_are_packed_whole(self) -> Self:
        cut = [table for table, sharding in self.sharding.items() if sharding == "grid"]
        if self.exchange == "int8" and cut:
            raise ValueError(
                f"exchange 'int8' packs vectors whole, and sharding 'grid' of {cut[0]!r} cuts them; set "
                "exchange: fp16, or another sharding"
            )
        return self

    @model_validator(mode="after")
    def _replicas_share_processes_and_steps(self) -> Self:
        job = self.train_job
        processes = job.num_nodes * job.num_processes_per_node if job else self.num_processes
        of_what = "train_job.num_nodes x num_processes_per_node" if job else "num_processes"
        if processes % self.replicas:
            raise ValueError(
                f"replicas {self.replicas} cannot share {processes} processes evenly; make {of_what} a "
                f"multiple of {self.replicas}"
            )
        for part in ("retriever", "ranker"):
            steps = getattr(self, part).optimizer.accumulate
            if self.replicas > 1 and self.sync_every % steps:
                raise ValueError(
                    f"sync_every {self.sync_every} would average replicas between the {steps} steps of "
                    f"{part}.optimizer.accumulate; make it a multiple of these"
                )
        return self

    @model_validator(mode="after")
    def _replicas_have_equal_shares(self) -> Self:
        if self.balance == "measured" and self.replicas > 1:
            raise ValueError(
                f"balance 'measured' gives processes unlike shares of a batch, and each of {self.replicas} "
                "replicas learns from its own as much as the others; set balance: equal, or replicas: 1"
            )
        return self

    @model_validator(mode="after")
    def _shares_are_alike_where_they_are_the_negatives(self) -> Self:
        if self.balance == "measured" and self.retriever.negatives == "in_batch":
            raise ValueError(
                "balance 'measured' gives processes unlike shares of a batch, and with retriever.negatives "
                "'in_batch' an event's negatives are its process's share; set balance: equal or others"
            )
        return self
