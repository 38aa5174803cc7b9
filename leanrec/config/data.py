"""Where raw interactions come from, and the bounds that their tables must keep."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, Self

from pydantic import Field, model_validator

from leanrec.config.section import Section


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
    columns: dict[str, str] = Field(default={})
    """Our column name -> the name in the files, where they differ."""
    user_attributes: tuple[str, ...] = ()
    """Categorical columns of the users table that become features."""
    feedback: str | None = None
    """Folder of the event log, whose ratings and clicks join the events; null: the base events alone."""
    click_rating: float | None = None
    """Rating that a click counts as; null: features.liked_threshold."""
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
