"""One named run: a YAML file, a section for each step."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, model_validator

from leanrec.config.compression import CompressionSettings
from leanrec.config.data import DataSettings, ValidationSettings
from leanrec.config.evaluation import EvaluationSettings
from leanrec.config.features import FeatureSettings, FeatureStoreSettings
from leanrec.config.fit import check_fit
from leanrec.config.gateway import GatewaySettings
from leanrec.config.release import ReleaseSettings
from leanrec.config.retraining import RetrainingSettings
from leanrec.config.rollout import RolloutSettings
from leanrec.config.search import SearchSettings
from leanrec.config.section import Section
from leanrec.config.serving import ServingSettings
from leanrec.config.training import TrainingSettings
from leanrec.config.tuning import TuningSettings
from leanrec.errors import ConfigError


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
    search: SearchSettings = SearchSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    compression: CompressionSettings = CompressionSettings()
    release: ReleaseSettings
    retraining: RetrainingSettings = RetrainingSettings()
    rollout: RolloutSettings = RolloutSettings()
    serving: ServingSettings = ServingSettings()
    tuning: TuningSettings = TuningSettings()
    gateway: GatewaySettings = GatewaySettings()

    @model_validator(mode="before")
    @classmethod
    def _a_click_is_a_like(cls, values: Any) -> Any:
        """Where feedback joins the events and nobody says what a click is worth, it is worth a like."""
        data = values.get("data") if isinstance(values, dict) else None
        if not isinstance(data, dict) or not data.get("feedback") or data.get("click_rating") is not None:
            return values
        threshold = (values.get("features") or {}).get(
            "liked_threshold", FeatureSettings.model_fields["liked_threshold"].default
        )
        return {**values, "data": {**data, "click_rating": threshold}}

    @model_validator(mode="after")
    def _what_is_rolled_out_is_a_candidate(self) -> Self:
        if self.rollout.after_publish and self.release.strategy != "canary":
            raise ValueError(
                f"release.strategy is {self.release.strategy}, so a release is stable at once and none is "
                "rolled out; set it to canary, or leave rollout.after_publish (--roll-out) away"
            )
        return self

    @model_validator(mode="after")
    def _lists_are_long_enough(self) -> Self:
        if max(self.evaluation.ks) > self.training.top_k:
            raise ValueError(
                f"evaluation.ks asks for {max(self.evaluation.ks)} items and training.top_k answers "
                f"{self.training.top_k}; raise training.top_k or lower evaluation.ks"
            )
        return self

    @model_validator(mode="after")
    def _caser_sees_no_more_than_the_history(self) -> Self:
        length, history = self.training.retriever.caser.length, self.features.history_length
        if self.training.retriever.model == "caser" and length > history:
            raise ValueError(
                f"training.retriever.caser.length {length} is above features.history_length {history}, the "
                "items that a history holds; lower the first or raise the second"
            )
        return self

    @model_validator(mode="after")
    def _recipes_suit_the_models(self) -> Self:
        """As configured: where a search may change what is trained, the methods alone look, when applied."""
        if "parameters" in self.search.model_fields_set:
            return self
        for recipe in self.compression.recipes:
            check_fit(recipe, self.training)
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
        settings = RunSettings.parse(values)
        settings.training.refuse_unread()
        return settings
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
