"""A run's settings: one YAML file, one frozen tree, unknown keys refused.

A section is what one step of the pipeline takes, so a step's cached result depends on its own section
and on nothing else. Each file beside this one holds the sections of one room. Paths are relative to the
working directory.
"""

from __future__ import annotations

from leanrec.config.compression import CompressionSettings
from leanrec.config.data import DataSettings, ValidationSettings
from leanrec.config.evaluation import EvaluationSettings
from leanrec.config.features import FeatureSettings, FeatureStoreSettings
from leanrec.config.gateway import GatewaySettings
from leanrec.config.recipes import Recipe
from leanrec.config.release import ReleaseSettings
from leanrec.config.retraining import RetrainingSettings
from leanrec.config.rollout import RolloutSettings
from leanrec.config.run import RunSettings, load_settings
from leanrec.config.search import SearchSettings
from leanrec.config.section import Section
from leanrec.config.serving import ServingSettings
from leanrec.config.training import RankerSettings, RetrieverSettings, TrainingSettings
from leanrec.config.tuning import TuningSettings

__all__ = [
    "CompressionSettings",
    "DataSettings",
    "EvaluationSettings",
    "FeatureSettings",
    "FeatureStoreSettings",
    "GatewaySettings",
    "RankerSettings",
    "Recipe",
    "ReleaseSettings",
    "RetrainingSettings",
    "RetrieverSettings",
    "RolloutSettings",
    "RunSettings",
    "SearchSettings",
    "Section",
    "ServingSettings",
    "TrainingSettings",
    "TuningSettings",
    "ValidationSettings",
    "load_settings",
]
