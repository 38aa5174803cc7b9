"""The Feast objects of a LeanRec project: entities, feature views and feature services.

There is one home for them. `feature_repo/feature_definitions.py` shows them to the `feast`
command, `leanrec/features/store.py` applies them from Python; both only say where the tables lie.

No view has a time to live: a user's or item's past does not expire in the training set. What
must not be served any longer is taken out of the online store by `materialize_features`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float32, Int64, String

from leanrec.schema import USER_ROW

PROJECT = "leanrec"
"""The Feast project's name; it is part of every key in the online store."""

RANKING_TRAINING = "ranking_training"
"""Feature service of the training set: what a point-in-time join hands out for an event."""

USER_KEY = "user_id"
"""Join key of the user entity."""


@dataclass(frozen=True, kw_only=True)
class Definitions:
    """Everything that `feast apply` registers."""

    user: Entity
    item: Entity
    user_profile: FeatureView
    user_activity: FeatureView
    user_seen: FeatureView
    item_statistics: FeatureView
    ranking_training: FeatureService
    user_row: FeatureService

    @property
    def online_views(self) -> tuple[FeatureView, ...]:
        """The views that go online, in the order of writing.

        Seen items come before the activity, and a reader asks for them after it: whatever a
        reader catches half-way in a store without transactions, every item of a history is
        in the seen items beside it.
        """
        return (self.user_profile, self.user_seen, self.user_activity)

    def objects(self) -> list[Any]:
        """The objects, as `FeatureStore.apply` takes them."""
        return [getattr(self, field.name) for field in fields(self)]


def define_features(tables: Path) -> Definitions:
    """The project's objects over the Parquet files in the folder `tables`; nothing is read."""
    user = Entity(
        name="user", join_keys=[USER_KEY], value_type=ValueType.STRING, description="A user, by pseudonym."
    )
    item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING, description="An item.")
    statistics = [_field("num_events", Int64), _field("num_liked", Int64), _field("mean_rating", Float32)]
    history = [_field("history", Array(Int64)), _field("history_ratings", Array(Float32))]
    profile = _view(
        "user_profile",
        user,
        tables,
        [
            _field("user_index", Int64),
            _field("user_attributes", Array(Int64)),
            _field("attribute_names", String),
        ],
        "Who the user is: indices of the user and of each attribute, and which attributes those are.",
    )
    activity = _view(
        "user_activity",
        user,
        tables,
        [*history, *statistics],
        "What the user did up to a moment: the most recent items, oldest first, and counts.",
    )
    seen = _view(
        "user_seen", user, tables, [_field("seen", Array(Int64))], "Every item the user has an event with."
    )
    items = _view(
        "item_statistics",
        item,
        tables,
        statistics,
        "What all users did with an item up to a moment.",
        online=False,
    )
    names = [field.name for field in statistics]
    return Definitions(
        user=user,
        item=item,
        user_profile=profile,
        user_activity=activity,
        user_seen=seen,
        item_statistics=items,
        # The lists stay out of the join: num_events names the row of user_activity they are in. So do
        # the attributes' names, which a training set has in the spec of its features.
        ranking_training=FeatureService(
            name=RANKING_TRAINING,
            features=[profile[["user_index", "user_attributes"]], activity[names]],
            description="A training event's user as he was just before it.",
        ),
        user_row=FeatureService(
            name=USER_ROW,
            features=[profile, activity, seen],
            description="The user row that the served graphs take.",
        ),
    )


def _field(name: str, dtype: Any) -> Field:
    return Field(name=name, dtype=dtype)


def _view(
    name: str, entity: Entity, tables: Path, schema: list[Field], description: str, *, online: bool = True
) -> FeatureView:
    source = FileSource(
        name=f"{name}_table", path=str(Path(tables) / f"{name}.parquet"), timestamp_field="event_timestamp"
    )
    return FeatureView(
        name=name,
        entities=[entity],
        ttl=timedelta(0),
        schema=schema,
        source=source,
        online=online,
        description=description,
    )
