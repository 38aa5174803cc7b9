"""How a release retrieves, and where it is stored besides the disk."""

from __future__ import annotations

from pydantic import Field

from leanrec.config.section import Section


class RetrievalIndexSettings(Section):
    """The inverted file inside the fused graph, for catalogues that are too large to score whole."""

    min_items: int = Field(default=50_000, ge=1)
    """Catalogues with fewer items are searched exactly: little time would be won (docs/retrieval.md)."""
    list_length: int = Field(default=32, ge=1)
    """Items a list."""
    min_recall: float = Field(default=0.96, gt=0, le=1)
    """Share of the exact best items that the index must find; lists are added until it does."""


class ObjectStoreSettings(Section):
    """A copy of the model repository on S3-compatible storage.

    Credentials are no settings: they come from the environment or from AWS's own files.
    """

    url: str | None = Field(default=None, pattern=r"^s3://[^/]+(/.*)?$")
    """s3://bucket/prefix; none: `--url` names it."""
    endpoint: str | None = None
    """Address of the service where it is not AWS, such as http://minio:9000; or AWS_ENDPOINT_URL."""
    poll_s: float = Field(default=2.0, gt=0)
    """Seconds between two looks at the stored release.json while a pull follows it."""
