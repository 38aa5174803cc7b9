"""Benchmarks: each measures us beside a baseline in one run, side by side, and answers

name, ours, baseline, ratio (above 1: we are better), unit, settings.
"""

from collections.abc import Callable
from typing import Any

from benchmarks import (
    compression,
    compression_large,
    gateway,
    large_tables,
    quality,
    release,
    response_cache,
    retraining,
    retrieval,
    scaling,
    serving,
    training,
    uneven,
    zoo,
)

BENCHMARKS: dict[str, Callable[..., dict[str, Any]]] = {
    "compression": compression.measure,
    "compression-large": compression_large.measure,
    "gateway": gateway.measure,
    "large-tables": large_tables.measure,
    "quality": quality.measure,
    "release": release.measure,
    "response-cache": response_cache.measure,
    "retraining": retraining.measure,
    "retrieval": retrieval.measure,
    "scaling": scaling.measure,
    "serving": serving.measure,
    "training": training.measure,
    "uneven": uneven.measure,
    "zoo": zoo.measure,
}
"""Name -> what measures."""

OF_A_RELEASE = frozenset({"release", "response-cache", "serving"})
"""Benchmarks that are given the folder of a model repository."""

OF_A_RUN = frozenset({"compression", "gateway", "retraining", "zoo"})
"""Benchmarks that are given the run's folder too, for what lies only there: model, feature store."""

OF_SOME_MODELS = frozenset({"quality", "zoo"})
"""Benchmarks that can be asked for some of their models alone."""
