"""Every error that LeanRec raises on purpose, in one tree.

    LeanRecError               exit status 2: the user can mend it, one sentence says how
    ├── ConfigError            a setting is unknown, missing or out of range
    ├── DataError              a raw file or table is not what it should be
    ├── FeatureStoreError      Feast or one of its stores refused
    ├── TrainingError          training cannot start or go on
    ├── ExportError            a model cannot become a graph
    ├── CompressionError       a recipe cannot be applied
    ├── ReleaseError           the model repository refused
    ├── ServingError           a server is not there or does not answer
    ├── HostError              this machine lacks something (memory, disk, port, binary)
    └── GateError              exit status 3: a measured figure missed its bound

A message names the thing, the rule, the value seen and the way out.
"""

from __future__ import annotations


class LeanRecError(Exception):
    """A mistake or a fault that one clear sentence explains."""

    exit_status = 2


class ConfigError(LeanRecError):
    """A setting is unknown, missing or out of range."""


class DataError(LeanRecError):
    """A raw file or a table breaks its schema."""


class FeatureStoreError(LeanRecError):
    """The feature store refused or lost rows."""


class TrainingError(LeanRecError):
    """Training cannot start or cannot go on."""


class ExportError(LeanRecError):
    """A model cannot become a graph."""


class CompressionError(LeanRecError):
    """A compression recipe cannot be applied."""


class ReleaseError(LeanRecError):
    """The model repository cannot take, find or change a release."""


class ServingError(LeanRecError):
    """A server is not there, or its answer is not usable."""


class HostError(LeanRecError):
    """This machine lacks memory, disk, a port or a program."""


class GateError(LeanRecError):
    """A gate stopped the run: a measured figure missed its bound."""

    exit_status = 3


ERRORS_BY_NAME: dict[str, type[LeanRecError]] = {
    error.__name__: error
    for error in (
        LeanRecError,
        ConfigError,
        DataError,
        FeatureStoreError,
        TrainingError,
        ExportError,
        CompressionError,
        ReleaseError,
        ServingError,
        HostError,
        GateError,
    )
}
