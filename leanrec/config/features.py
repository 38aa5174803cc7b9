"""What is computed of the past, and the store that holds it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leanrec.config.section import Section


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
