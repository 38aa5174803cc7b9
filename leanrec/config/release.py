"""The Triton model repository and what a release must prove."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leanrec.config.section import Section
from leanrec.config.storage import ObjectStoreSettings, RetrievalIndexSettings


class ReleaseSettings(Section):
    """The Triton model repository and what a release must prove."""

    repository: str
    """Folder of the model repository."""
    keep: int = Field(default=5, ge=2)
    """Releases kept; older ones are pruned, never the served ones."""
    strategy: Literal["direct", "canary"] = "direct"
    """A new release is stable at once, or a candidate that `leanrec release rollout` takes on by steps."""
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
    index: RetrievalIndexSettings = RetrievalIndexSettings()
    """Retrieval from a large catalogue."""
    object_store: ObjectStoreSettings = ObjectStoreSettings()
    """The repository's copy on S3-compatible storage."""
