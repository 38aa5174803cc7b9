"""A run's settings: one YAML file, one frozen tree, unknown keys refused.

A section is what one step of the pipeline takes, so a step's cached result depends on its own
section and on nothing else. Paths are relative to the working directory.
"""

from __future__ import annotations

import difflib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from leanrec.errors import ConfigError


class Section(BaseModel):
    """Settings that cannot change and take no key they do not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """The section in `values`; a ConfigError names the first key at fault and the way out."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(_explain(cls, error)) from None


class DataSettings(Section):
    """Where raw interactions come from and how they are read."""

    source: Literal["movielens-100k", "csv", "parquet", "synthetic"]
    """The data source: a data set that is fetched, files of yours, or a made-up catalogue."""
    cache: str = "data"
    """Folder that keeps what was downloaded."""
    events: str | None = None
    """File of events (csv and parquet sources)."""
    items: str | None = None
    """File of items (csv and parquet sources)."""
    users: str | None = None
    """File of users (csv and parquet sources); without it users have no attributes."""
    columns: dict[str, str] = {}
    """Our column name -> the name in the files, where they differ."""
    user_attributes: tuple[str, ...] = ()
    """Categorical columns of the users table that become features."""
    max_timestamp: str | None = None
    """Latest event time accepted (ISO 8601); the present when null."""
    num_users: int = Field(default=1_000, ge=1)
    """People of the synthetic source."""
    num_items: int = Field(default=800, ge=4)
    """Films of the synthetic source."""
    num_events: int = Field(default=60_000, ge=1)
    """Ratings of the synthetic source: at most a quarter of num_users * num_items."""

    @model_validator(mode="after")
    def _files_are_named(self) -> Self:
        if self.source in ("csv", "parquet") and not (self.events and self.items):
            raise ValueError(f"source {self.source} needs the files 'events' and 'items'")
        return self

    @model_validator(mode="after")
    def _made_up_events_fit(self) -> Self:
        most = self.num_users * self.num_items // 4
        if self.source == "synthetic" and self.num_events > most:
            raise ValueError(
                f"num_events {self.num_events} is above {most}, a quarter of num_users * num_items; lower it"
            )
        return self

    @model_validator(mode="after")
    def _max_timestamp_is_a_time(self) -> Self:
        try:
            self.latest_accepted()
        except ValueError:
            raise ValueError(
                f"max_timestamp '{self.max_timestamp}' is not ISO 8601, such as 2026-01-31T12:00:00Z"
            ) from None
        return self

    def latest_accepted(self) -> datetime | None:
        """`max_timestamp` as a time, UTC where it names no offset; None means the present."""
        if self.max_timestamp is None:
            return None
        latest = datetime.fromisoformat(self.max_timestamp)
        return latest if latest.tzinfo else latest.replace(tzinfo=UTC)


class ValidationSettings(Section):
    """Bounds that the tables must keep; a table that does not keeps the run from going on."""

    min_events: int = Field(default=100, ge=1)
    """Fewest events a run may start with."""
    min_items: int = Field(default=1, ge=1)
    """Fewest items a run may start with."""
    min_users: int = Field(default=1, ge=1)
    """Fewest users a run may start with."""
    min_rating: float = 0.0
    """Least rating."""
    max_rating: float = 5.0
    """Greatest rating."""

    @model_validator(mode="after")
    def _ratings_have_a_range(self) -> Self:
        if self.min_rating > self.max_rating:
            raise ValueError(f"min_rating {self.min_rating:g} is above max_rating {self.max_rating:g}")
        return self


class FeatureSettings(Section):
    """What is computed of each user's and item's past."""

    history_length: int = Field(default=50, ge=1, le=1000)
    """Most recent events kept in the user row (H)."""
    liked_threshold: float = 4.0
    """A rating at or above it counts as liked."""
    split_by: Literal["user", "time"] = "user"
    """Hold out each user's last events, or everybody's last days."""
    valid_fraction: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of events held out for early stopping and for choosing."""
    test_fraction: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of events, the latest, held out for the figures reported."""


class FeatureStoreSettings(Section):
    """The Feast project that holds user rows."""

    repository: str
    """Folder of the registry, the offline tables and the SQLite online store."""
    online: Literal["sqlite", "redis"] = "sqlite"
    """Online store."""
    redis: str = "localhost:6379"
    """Redis address for online: redis; its password, if any, is in LEANREC_REDIS_PASSWORD."""


class RetrieverSettings(Section):
    """The two-tower retriever."""

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
    """The DCNv2 ranker."""

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
    checkpoint: str | None = None
    """Folder that keeps the state after each epoch, so that a killed run goes on; null: beside the output."""
    retriever: RetrieverSettings = RetrieverSettings()
    ranker: RankerSettings = RankerSettings()

    @model_validator(mode="after")
    def _top_k_fits(self) -> Self:
        if self.top_k > self.num_candidates:
            raise ValueError(f"top_k {self.top_k} is above num_candidates {self.num_candidates}")
        return self


class EvaluationSettings(Section):
    """The figures, and the bounds that they must keep."""

    ks: tuple[int, ...] = (5, 10, 20, 50)
    """Cut-offs of the ranking metrics."""
    must_beat: tuple[Literal["popularity", "item_knn"], ...] = ("popularity", "item_knn")
    """Baselines that the model, and its compressed form, must be better than on NDCG@10."""
    max_calibration_error: float = Field(default=0.1, gt=0)
    """Bound on the expected calibration error of P(like)."""


Recipe = Literal["fp32", "fp16", "int8_tables", "int8_mlp", "int8"]
"""The names in `leanrec/compression/recipes.py`, which a test holds against these."""


class CompressionSettings(Section):
    """The recipes tried and how one of them is chosen."""

    recipes: tuple[Recipe, ...] = ("fp32", "fp16", "int8_tables", "int8_mlp", "int8")
    """Recipes, each measured; fp32 is the uncompressed export."""
    alpha: float = Field(default=0.5, ge=0, le=1)
    """Weight of the latency ratio against the quality loss."""
    max_auc_loss: float = Field(default=0.001, ge=0)
    """Quality floor: AUC may fall by this much."""
    max_ndcg_loss: float = Field(default=0.01, ge=0)
    """Quality floor: NDCG@10 may fall by this share."""
    max_bytes: int | None = None
    """Budget for the bytes served from the repository."""


class ReleaseSettings(Section):
    """The Triton model repository and what a release must prove."""

    repository: str
    """Folder of the model repository."""
    keep: int = Field(default=5, ge=2)
    """Releases kept; older ones are pruned, never the served ones."""
    max_score_difference: float = Field(default=1e-5, gt=0)
    """Parity: bound on |Triton - the same graph in this process|, and on |trainer - Triton| uncompressed."""
    min_same_top_10: float = Field(default=0.99, ge=0, le=1)
    """Parity: share of golden users whose ten items must be the same, uncompressed."""
    max_score_ratio: float = Field(default=1.25, ge=1)
    """Parity: no compressed score may be more than so many times the trainer's, nor the other way round."""
    min_shared_top_10: float = Field(default=0.9, ge=0, le=1)
    """Parity: share of the trainer's ten items that the compressed form must show too, mean over users."""
    num_golden: int = Field(default=256, ge=1)
    """Golden requests kept in the release."""


class ServingSettings(Section):
    """The embedded Triton."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    http_port: int = Field(default=8000, ge=0, le=65535)
    """HTTP port; 0 takes a free one."""
    grpc_port: int = Field(default=8001, ge=0, le=65535)
    """gRPC port; 0 takes a free one."""
    metrics_port: int = Field(default=8002, ge=0, le=65535)
    """Prometheus port; 0 takes a free one."""


class RunSettings(Section):
    """One named run: a section for each step."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,52}$")
    """Name of the run's configuration: lower case, digits and dashes."""
    runs: str = "runs"
    """Folder of the run folders."""
    data: DataSettings
    validation: ValidationSettings = ValidationSettings()
    features: FeatureSettings = FeatureSettings()
    feature_store: FeatureStoreSettings
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    compression: CompressionSettings = CompressionSettings()
    release: ReleaseSettings
    serving: ServingSettings = ServingSettings()

    @model_validator(mode="after")
    def _lists_are_long_enough(self) -> Self:
        if max(self.evaluation.ks) > self.training.top_k:
            raise ValueError(
                f"evaluation.ks asks for {max(self.evaluation.ks)} items and training.top_k answers "
                f"{self.training.top_k}; raise training.top_k or lower evaluation.ks"
            )
        return self


def load_settings(path: Path) -> RunSettings:
    """The settings in the YAML file at `path`; a ConfigError names what is wrong in it."""
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"{path}: {reason}; name one of the files in configs/") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a YAML file: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: the file holds {type(values).__name__}, not a mapping of settings")
    try:
        return RunSettings.parse(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _explain(section: type[BaseModel], error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or section.__name__
    if first["type"] == "extra_forbidden":
        known = _known_keys(section, first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"unknown setting {where!r}; {hint}"
    if first["type"] == "missing":
        return f"setting {where!r} is missing; add it"
    return f"setting {where!r}: {first['msg'].removeprefix('Value error, ')} (seen: {first['input']!r})"


def _known_keys(section: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    for part in loc:
        field = section.model_fields.get(str(part))
        inner = field.annotation if field else None
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            section = inner
    return list(section.model_fields)
