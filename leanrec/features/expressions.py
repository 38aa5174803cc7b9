"""What is computed of the past, as ibis expressions: lazily, engine by engine.

Each function takes tables and answers a table; nothing runs until someone executes it. The
expressions use ibis operators alone, no SQL text, so that an engine with window functions and
list aggregates (DuckDB, Spark) can run them. They were tried on DuckDB only.

`indexed` stands for the events table after `index_events`: it has `user_index`, `item_index`
and `liked` besides its own columns. Events of one user at one timestamp are ordered by
event_id, so every result is the same whatever the order of the rows in the file.
"""

from __future__ import annotations

import json

import ibis
import ibis.expr.types as ir

from leanrec.config import FeatureSettings
from leanrec.schema import UNKNOWN_INDEX, USER_STATISTICS

ROUNDING = 1e-9
"""Added before rounding down, so that 0.29 of 100 events is 29 and not 28."""


def index_events(events: ir.Table, users: ir.Table, items: ir.Table, settings: FeatureSettings) -> ir.Table:
    """Events with `user_index`, `item_index` (0 when the vocabulary lacks the id) and `liked`.

    `users` and `items` are the vocabulary: columns id and index.
    """
    user_indices = users.select(user_id=users["id"], user_index=users["index"])
    item_indices = items.select(item_id=items["id"], item_index=items["index"])
    joined = _attach(_attach(events, user_indices, "user_id"), item_indices, "item_id")
    return joined.mutate(
        user_index=joined["user_index"].fill_null(UNKNOWN_INDEX).cast("int64"),
        item_index=joined["item_index"].fill_null(UNKNOWN_INDEX).cast("int64"),
        liked=joined["rating"] >= ibis.literal(settings.liked_threshold, "float32"),
    )


def user_profile(indexed: ir.Table, attributes: ir.Table, names: tuple[str, ...]) -> ir.Table:
    """One row a user, from the first event on: its index, its attributes and what they are called.

    `attributes` has columns user_id and user_attributes (list<int64>, in the order of `names`); a
    user that it lacks has unknown attributes. The names stand in every row, for a reader may hold a
    model whose attributes are others than those of the newest tables.
    """
    first = indexed.group_by("user_id").agg(
        event_timestamp=indexed["timestamp"].min(), user_index=indexed["user_index"].max()
    )
    joined = _attach(first, attributes, "user_id")
    return joined.select(
        "user_id",
        "event_timestamp",
        "user_index",
        user_attributes=joined["user_attributes"].fill_null(_unknown(len(names))),
        # JSON, for Feast loses the type of a list of strings that is empty in every row.
        attribute_names=ibis.literal(json.dumps(names)),
    ).order_by("user_id")


def user_activity(indexed: ir.Table, settings: FeatureSettings) -> ir.Table:
    """A row for each moment at which a user had events: the last H items, and counts up to then."""
    order = [indexed["timestamp"], indexed["event_id"]]
    recent = ibis.window(
        group_by="user_id", order_by=order, preceding=settings.history_length - 1, following=0
    )
    rows = indexed.mutate(
        history=indexed["item_index"].collect().over(recent),
        history_ratings=indexed["rating"].collect().over(recent),
        **_statistics_up_to(indexed, "user_id"),
    )
    return _one_row_a_moment(rows, "user_id").select(
        "user_id", "event_timestamp", "history", "history_ratings", "num_events", "num_liked", "mean_rating"
    )


def user_seen(indexed: ir.Table) -> ir.Table:
    """One row a user, at the last event: every item of the user's events, by rising index."""
    return (
        indexed.group_by("user_id")
        .agg(
            event_timestamp=indexed["timestamp"].max(),
            seen=indexed["item_index"].collect(distinct=True).sort(),
        )
        .order_by("user_id")
    )


def item_statistics(indexed: ir.Table) -> ir.Table:
    """A row for each moment at which an item had events: counts and mean rating up to then."""
    rows = indexed.mutate(**_statistics_up_to(indexed, "item_id"))
    return _one_row_a_moment(rows, "item_id").select(
        "item_id", "event_timestamp", "num_events", "num_liked", "mean_rating"
    )


def item_table(
    vocabulary: ir.Table, items: ir.Table, indexed: ir.Table, splits: ir.Table, categories: ir.Table
) -> ir.Table:
    """Row i is item_index i: what the item is, and its statistics over training events alone.

    `vocabulary` has columns id and index; `categories` has item_id and category_indices.
    Row 0 is "unknown": no id, no title. An item of an earlier release that `items` no longer
    holds keeps its row, without a title.
    """
    training = indexed.semi_join(splits.filter(splits["split"] == "train"), "event_id")
    statistics = training.group_by("item_index").agg(
        num_events=training.count(),
        num_liked=training["event_id"].count(where=training["liked"]),
        mean_rating=training["rating"].cast("float64").mean().cast("float32"),
    )
    known = vocabulary.select(item_index=vocabulary["index"].cast("int64"), item_id=vocabulary["id"])
    unknown = {"item_index": [UNKNOWN_INDEX], "item_id": [""]}
    known = known.union(ibis.memtable(unknown, schema=known.schema()))
    rows = _attach(_attach(known, items, "item_id"), categories, "item_id")
    rows = _attach(rows, statistics, "item_index")
    return rows.select(
        "item_index",
        "item_id",
        title=rows["title"].fill_null(""),
        categories=rows["categories"].fill_null(ibis.literal([], "array<string>")),
        category_indices=rows["category_indices"].fill_null(ibis.literal([], "array<int64>")),
        release_year=rows["release_year"].cast("int32"),
        num_events=rows["num_events"].fill_null(0),
        num_liked=rows["num_liked"].fill_null(0),
        mean_rating=rows["mean_rating"].fill_null(ibis.literal(0, "float32")),
    ).order_by("item_index")


def splits_by_user(events: ir.Table, settings: FeatureSettings) -> ir.Table:
    """event_id and split: each user's latest events are test, those before them valid.

    Both shares are rounded down for each user, so every user keeps a training event, and a
    user with fewer than 1 / fraction events has none in that split.
    """
    latest_first = ibis.window(
        group_by="user_id", order_by=[events["timestamp"].desc(), events["event_id"].desc()]
    )
    all_of_user = ibis.window(group_by="user_id")
    rows = events.mutate(
        position=ibis.row_number().over(latest_first), total=events["event_id"].count().over(all_of_user)
    )
    num_test = _share(rows["total"], settings.test_fraction)
    num_valid = _share(rows["total"], settings.valid_fraction)
    split = ibis.cases(
        (rows["position"] < num_test, "test"),
        (rows["position"] < num_test + num_valid, "valid"),
        else_="train",
    )
    return rows.select("event_id", split=split)


def splits_by_time(events: ir.Table, settings: FeatureSettings) -> ir.Table:
    """event_id and split: everybody's latest events are test, those before them valid.

    The cuts are timestamps: events at one timestamp share a split, the later one.
    """
    latest_first = ibis.window(order_by=[events["timestamp"].desc(), events["event_id"].desc()])
    rows = events.mutate(
        position=ibis.row_number().over(latest_first),
        total=events["event_id"].count().over(ibis.window()),
    )
    num_test = _share(rows["total"], settings.test_fraction)
    num_held_out = num_test + _share(rows["total"], settings.valid_fraction)
    latest_of_tie = rows["position"].min().over(ibis.window(group_by="timestamp"))
    split = ibis.cases(
        (latest_of_tie < num_test, "test"), (latest_of_tie < num_held_out, "valid"), else_="train"
    )
    return rows.select("event_id", split=split)


def training_set(
    joined: ir.Table,
    *,
    events: ir.Table,
    items: ir.Table,
    splits: ir.Table,
    activity: ir.Table,
    liked_threshold: float,
    num_attributes: int,
) -> ir.Table:
    """The training set, from Feast's point-in-time join `joined`.

    The join names the row of `activity` that an event may see by its num_events, which differs
    in every row of a user; the lists are fetched by it here, after the join, as it would
    otherwise carry them around for every pair of events that it compares.
    """
    rows = _attach(_attach(joined, events.select("event_id", "rating"), "event_id"), splits, "event_id")
    rows = _attach(rows, items.select("item_id", "item_index"), "item_id")
    lists = activity.select("user_id", "history", "history_ratings", user_activity__num_events="num_events")
    rows = _attach(rows, lists, "user_id", "user_activity__num_events")
    zero = ibis.literal(0, "float32")
    user_statistics = [
        rows[f"user_activity__{name}"].cast("float32").fill_null(zero) for name in USER_STATISTICS
    ]
    return rows.select(
        "event_id",
        "user_id",
        "item_id",
        "event_timestamp",
        "rating",
        "split",
        item_index=rows["item_index"].fill_null(UNKNOWN_INDEX),
        liked=rows["rating"] >= ibis.literal(liked_threshold, "float32"),
        user_index=rows["user_profile__user_index"].fill_null(UNKNOWN_INDEX),
        user_attributes=rows["user_profile__user_attributes"].fill_null(_unknown(num_attributes)),
        user_statistics=ibis.array(user_statistics),
        history=rows["history"].fill_null(ibis.literal([], "array<int64>")),
        history_ratings=rows["history_ratings"].fill_null(ibis.literal([], "array<float32>")),
    ).order_by(["event_timestamp", "event_id"])


def _unknown(num_attributes: int) -> ir.ArrayValue:
    return ibis.literal([UNKNOWN_INDEX] * num_attributes, "array<int64>")


def _attach(rows: ir.Table, facts: ir.Table, *keys: str) -> ir.Table:
    """`rows` with the other columns of `facts`, null where it has no such key."""
    joined = rows.left_join(facts, keys)
    return joined.select(*rows.columns, *(column for column in facts.columns if column not in keys))


def _share(total: ir.IntegerValue, fraction: float) -> ir.IntegerValue:
    return (total * fraction + ROUNDING).floor().cast("int64")


def _statistics_up_to(indexed: ir.Table, key: str) -> dict[str, ir.Value]:
    """num_events, num_liked and mean_rating of the rows of `key` up to and with each row."""
    past = ibis.window(
        group_by=key, order_by=[indexed["timestamp"], indexed["event_id"]], preceding=None, following=0
    )
    return {
        "num_events": indexed["event_id"].count().over(past),
        "num_liked": indexed["event_id"].count(where=indexed["liked"]).over(past),
        "mean_rating": indexed["rating"].cast("float64").mean().over(past).cast("float32"),
    }


def _one_row_a_moment(rows: ir.Table, key: str) -> ir.Table:
    """The last row of each tie, stamped one microsecond later.

    A point-in-time join takes rows stamped at or before the event, so that microsecond hides
    an event, and all others at the same timestamp, from itself.
    """
    tie = ibis.window(group_by=[key, "timestamp"], order_by=rows["event_id"].desc())
    last = rows.mutate(position_in_tie=ibis.row_number().over(tie))
    last = last.filter(last["position_in_tie"] == 0)
    stamped = last.mutate(event_timestamp=last["timestamp"] + ibis.interval(microseconds=1))
    return stamped.order_by([key, "event_timestamp"])
