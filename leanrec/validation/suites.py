"""What the three tables must keep, as data: each rule is one Great Expectations expectation.

A rule reads as a sentence: "events.timestamp must be not in the future"; a broken one as "events.timestamp:
3 of 100,000 rows are in the future; fix the clock or set data.max_timestamp".
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from leanrec.config import ValidationSettings
from leanrec.schema import EARLIEST

"""No recommender's event is older; an older one is a wrong unit or an unset clock."""

USER_KNOWN = "user_known"
ITEM_KNOWN = "item_known"
"""Boolean columns joined to the events before the suites run: is the id in the other table?"""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule on one column (`rows` when it is about the table).

    must: what the column must be. fault: what broken rows do, after "3 of 100 rows". way_out: what
    to do about it. expectation, arguments: the class in great_expectations.expectations and how it is made.
    """

    table: str
    column: str
    must: str
    fault: str
    way_out: str
    expectation: str
    arguments: dict[str, Any]

    @property
    def figure(self) -> str:
        """The rule's name in gate.json."""
        return f"{self.table}.{self.column} {self.must}"


def events_suite(settings: ValidationSettings, latest: datetime) -> list[Rule]:
    """Rules of the events; `latest` is the last time that is not yet the future."""
    low, high = settings.min_rating, settings.max_rating
    return [
        _row_count("events", settings.min_events, "bring more events or lower validation.min_events"),
        *_id_rules("events", "event_id"),
        *_id_rules("events", "user_id"),
        *_id_rules("events", "item_id"),
        _unique("events", "event_id", "drop the copies or number the events apart"),
        Rule(
            table="events",
            column="user_id, item_id, timestamp",
            must="unique together",
            fault="share user, item and time with another row",
            way_out="drop the duplicate events",
            expectation="ExpectCompoundColumnsToBeUnique",
            arguments={"column_list": ["user_id", "item_id", "timestamp"]},
        ),
        Rule(
            table="events",
            column="rating",
            must="a number",
            fault="have no rating (NaN)",
            way_out="drop these events or give them a rating",
            expectation="ExpectColumnValuesToNotBeNull",
            arguments={"column": "rating"},
        ),
        Rule(
            table="events",
            column="rating",
            must=f"from {low:g} to {high:g}",
            fault=f"are not from {low:g} to {high:g}",
            way_out="mend the ratings or set validation.min_rating and validation.max_rating",
            expectation="ExpectColumnValuesToBeBetween",
            arguments={"column": "rating", "min_value": low, "max_value": high},
        ),
        *_time_rules(latest),
        _known("user_id", "users", USER_KNOWN),
        _known("item_id", "items", ITEM_KNOWN),
    ]


def items_suite(settings: ValidationSettings) -> list[Rule]:
    """Rules of the items."""
    return [
        _row_count("items", settings.min_items, "bring more items or lower validation.min_items"),
        *_id_rules("items", "item_id"),
        _unique("items", "item_id", "keep one row for each item"),
        *_presence("items", "title", "title", "give each item a title, its id if there is no better"),
    ]


def users_suite(settings: ValidationSettings) -> list[Rule]:
    """Rules of the users."""
    return [
        _row_count("users", settings.min_users, "bring more users or lower validation.min_users"),
        *_id_rules("users", "user_id"),
        _unique("users", "user_id", "keep one row for each user"),
    ]


def _row_count(table: str, least: int, way_out: str) -> Rule:
    return Rule(
        table=table,
        column="rows",
        must=f"at least {least:,}",
        fault=f"are fewer than {least:,}",
        way_out=way_out,
        expectation="ExpectTableRowCountToBeBetween",
        arguments={"min_value": least},
    )


def _id_rules(table: str, column: str) -> list[Rule]:
    return _presence(table, column, "id", "drop these rows or give them an id")


def _presence(table: str, column: str, noun: str, way_out: str) -> list[Rule]:
    return [
        Rule(
            table=table,
            column=column,
            must="not null",
            fault=f"have no {noun}",
            way_out=way_out,
            expectation="ExpectColumnValuesToNotBeNull",
            arguments={"column": column},
        ),
        Rule(
            table=table,
            column=column,
            must="not empty",
            fault=f"have an empty {noun}",
            way_out=way_out,
            expectation="ExpectColumnValuesToNotBeInSet",
            arguments={"column": column, "value_set": [""]},
        ),
    ]


def _unique(table: str, column: str, way_out: str) -> Rule:
    return Rule(
        table=table,
        column=column,
        must="unique",
        fault="share their id with another row",
        way_out=way_out,
        expectation="ExpectColumnValuesToBeUnique",
        arguments={"column": column},
    )


def _time_rules(latest: datetime) -> list[Rule]:
    return [
        Rule(
            table="events",
            column="timestamp",
            must="not in the future",
            fault=f"are in the future, after {latest:%Y-%m-%d %H:%M} UTC",
            way_out="fix the clock or set data.max_timestamp",
            expectation="ExpectColumnValuesToBeBetween",
            arguments={"column": "timestamp", "max_value": latest},
        ),
        Rule(
            table="events",
            column="timestamp",
            must=f"not before {EARLIEST.year}",
            fault=f"are before {EARLIEST.year}",
            way_out="look at the unit: seconds or milliseconds since 1970, or ISO 8601",
            expectation="ExpectColumnValuesToBeBetween",
            arguments={"column": "timestamp", "min_value": EARLIEST},
        ),
    ]


def _known(column: str, other: str, flag: str) -> Rule:
    return Rule(
        table="events",
        column=column,
        must=f"known in {other}",
        fault=f"name an id that {other} lacks",
        way_out=f"add the missing {other} or drop these events",
        expectation="ExpectColumnValuesToBeInSet",
        arguments={"column": flag, "value_set": [True]},
    )
