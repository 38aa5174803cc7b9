"""Validation: every rule is broken once, and the report says where."""

import json
import re
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leanrec.config import DataSettings, ValidationSettings
from leanrec.errors import ConfigError, DataError, GateError
from leanrec.gates import enforce_gate
from leanrec.schema import EVENTS, ITEMS
from leanrec.validation.expectations import run_expectations
from leanrec.validation.suites import Rule
from leanrec.validation.validate import validate_tables

START = datetime(2020, 1, 1, tzinfo=UTC)
NUM_EVENTS = 40


def clean_events() -> list[dict]:
    return [
        {
            "event_id": f"e{i}",
            "user_id": f"u{i % 4}",
            "item_id": f"i{i % 5}",
            "timestamp": START + timedelta(hours=i),
            "rating": float(i % 5 + 1),
        }
        for i in range(NUM_EVENTS)
    ]


class Tables:
    """Three clean tables that a test breaks, and what validation then says of them."""

    def __init__(self, folder):
        self.folder = folder
        self.events = clean_events()
        self.items = [
            {"item_id": f"i{i}", "title": f"Film {i}", "categories": [], "release_year": None}
            for i in range(5)
        ]
        self.users = [{"user_id": f"u{i}"} for i in range(4)]

    def validate(self, data: DataSettings | None = None, **settings) -> tuple[bool, dict]:
        # A table written by others may hold nulls, so these schemas allow them.
        schemas = {
            "events": EVENTS,
            "items": ITEMS,
            "users": pa.schema([pa.field("user_id", pa.string())]),
        }
        paths = {}
        for name, schema in schemas.items():
            nullable = pa.schema([field.with_nullable(True) for field in schema])
            paths[name] = self.folder / name
            pq.write_table(pa.Table.from_pylist(getattr(self, name), schema=nullable), paths[name])
        settings = ValidationSettings(**({"min_events": 1, "min_rating": 1} | settings))
        data = data or DataSettings(source="movielens-100k")
        passed = validate_tables(settings, data, **paths, output=self.folder / "out")
        return passed, json.loads((self.folder / "out" / "validation.json").read_text())


@pytest.fixture
def tables(tmp_path) -> Tables:
    return Tables(tmp_path)


def broken_of(report: dict) -> dict[tuple[str, str, str], dict]:
    return {(e["table"], e["column"], e["rule"]): e for e in report["expectations"] if not e["passed"]}


def test_clean_tables_pass_and_the_gate_lets_them_through(tables):
    passed, report = tables.validate()
    assert passed is report["passed"] is True
    assert broken_of(report) == {}
    assert report["rows"] == {"events": NUM_EVENTS, "items": 5, "users": 4}
    assert all(e["error"] is None and e["observed"] for e in report["expectations"])
    enforce_gate(folder=tables.folder / "out")


def set_in(table, row, **values):
    def breaks(tables):
        getattr(tables, table)[row].update(values)

    return breaks


def append_to(table, **values):
    def breaks(tables):
        rows = getattr(tables, table)
        rows.append(rows[3] | values)

    return breaks


@pytest.mark.parametrize(
    ("breaks", "rule", "rows", "sentence"),
    [
        (
            set_in("events", 7, rating=float("nan")),
            ("events", "rating", "a number"),
            [8],
            r"events\.rating: 1 of 40 rows have no rating \(NaN\) \(observed 1 to 5; e\.g\. row 8: NaN\)",
        ),
        (
            set_in("events", 7, rating=7.5),
            ("events", "rating", "from 1 to 5"),
            [8],
            r"events\.rating: 1 of 40 rows are not from 1 to 5 \(observed 1 to 7\.5; e\.g\. row 8: 7\.5\); "
            r"mend the ratings or set validation\.min_rating",
        ),
        (
            set_in("events", 7, rating=float("inf")),
            ("events", "rating", "from 1 to 5"),
            [8],
            r"e\.g\. row 8: inf",
        ),
        (
            set_in("events", 16, timestamp=datetime(4031, 1, 1, tzinfo=UTC)),
            ("events", "timestamp", "not in the future"),
            [17],
            r"events\.timestamp: 1 of 40 rows are in the future, after 20.* to 4031-01-01 00:00:00; "
            r"e\.g\. row 17: 4031-01-01 00:00:00\); fix the clock or set data\.max_timestamp",
        ),
        (
            set_in("events", 0, timestamp=datetime(1970, 1, 1, tzinfo=UTC)),
            ("events", "timestamp", "not before 1990"),
            [1],
            r"1 of 40 rows are before 1990 .* look at the unit",
        ),
        (
            append_to("events", event_id="e40", rating=1.0),
            ("events", "user_id, item_id, timestamp", "unique together"),
            [4, 41],
            r"2 of 41 rows share user, item and time .*e\.g\. row 4: u3, i3, 2020-01-01 03:00:00\)",
        ),
        (
            append_to("events", timestamp=START),
            ("events", "event_id", "unique"),
            [4, 41],
            r"events\.event_id: 2 of 41 rows share their id .*e\.g\. row 4: e3\)",
        ),
        (
            set_in("events", 7, item_id="i99"),
            ("events", "item_id", "known in items"),
            [8],
            r"events\.item_id: 1 of 40 rows name an id that items lacks .* row 8: i99\); add the missing",
        ),
        (
            set_in("events", 7, user_id="u99"),
            ("events", "user_id", "known in users"),
            [8],
            r"events\.user_id: 1 of 40 rows name an id that users lacks .* e\.g\. row 8: u99\)",
        ),
        (
            set_in("events", 7, event_id=None),
            ("events", "event_id", "not null"),
            [8],
            r"events\.event_id: 1 of 40 rows have no id .*e\.g\. row 8: null\)",
        ),
        (
            set_in("events", 7, event_id=""),
            ("events", "event_id", "not empty"),
            [8],
            r"events\.event_id: 1 of 40 rows have an empty id .*e\.g\. row 8: ''\)",
        ),
        (
            append_to("items"),
            ("items", "item_id", "unique"),
            [4, 6],
            r"items\.item_id: 2 of 6 rows share their id .*e\.g\. row 4: i3\); keep one row for each item",
        ),
        (
            set_in("items", 2, title=""),
            ("items", "title", "not empty"),
            [3],
            r"items\.title: 1 of 5 rows have an empty title .*e\.g\. row 3: ''\)",
        ),
        (
            set_in("items", 2, title=None),
            ("items", "title", "not null"),
            [3],
            r"items\.title: 1 of 5 rows have no title .*e\.g\. row 3: null\); give each item a title",
        ),
        (
            append_to("users"),
            ("users", "user_id", "unique"),
            [4, 5],
            r"users\.user_id: 2 of 5 rows share their id .*; keep one row for each user",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_broken_rule_is_found_where_it_is(tables, breaks, rule, rows, sentence):
    breaks(tables)
    passed, report = tables.validate()
    broken = broken_of(report)
    assert not passed
    assert list(broken) == [rule]
    assert [row["row"] for row in broken[rule]["failing_rows"]] == rows
    assert broken[rule]["num_failing"] == len(rows)
    with pytest.raises(GateError, match=sentence):
        enforce_gate(folder=tables.folder / "out")


def test_a_null_item_id_is_both_missing_and_unknown(tables):
    tables.events[7]["item_id"] = None
    broken = broken_of(tables.validate()[1])
    assert list(broken) == [("events", "item_id", "not null"), ("events", "item_id", "known in items")]


def test_too_few_rows_fail_and_name_the_setting(tables):
    passed, _ = tables.validate(min_events=41, min_items=6)
    assert not passed
    with pytest.raises(GateError, match=r"40 rows are fewer than 41; .*min_events.* 5 rows are fewer than 6"):
        enforce_gate(folder=tables.folder / "out")


def test_at_most_twenty_failing_rows_are_shown_and_all_are_counted(tables):
    for event in tables.events:
        event["item_id"] = "nowhere"
    finding = broken_of(tables.validate()[1])["events", "item_id", "known in items"]
    assert finding["num_failing"] == NUM_EVENTS
    assert [row["row"] for row in finding["failing_rows"]] == list(range(1, 21))
    assert finding["failing_rows"][0] == {"row": 1, "id": "e0", "value": "nowhere"}


def test_the_settings_say_when_the_future_begins(tables):
    data = DataSettings(source="movielens-100k", max_timestamp="2020-01-01T10:30:00")
    finding = broken_of(tables.validate(data)[1])["events", "timestamp", "not in the future"]
    assert finding["num_failing"] == NUM_EVENTS - 11
    late = DataSettings(source="movielens-100k", max_timestamp="4000-01-01")
    tables.events[3]["timestamp"] = datetime(3999, 1, 1, tzinfo=UTC)
    assert tables.validate(late)[0]


@pytest.mark.parametrize("empty", ["events", "items", "users"])
def test_an_empty_table_is_reported_not_a_crash(tables, empty):
    setattr(tables, empty, [])
    passed, report = tables.validate()
    broken = broken_of(report)
    assert not passed
    assert (empty, "rows", "at least 1") in broken
    assert all(finding["error"] is None for finding in broken.values())


def test_a_table_that_lacks_a_column_is_an_error_not_a_pass(tables, tmp_path):
    tables.validate()
    pq.write_table(pq.read_table(tmp_path / "events").drop_columns("rating"), tmp_path / "events")
    passed = validate_tables(
        ValidationSettings(min_events=1),
        DataSettings(source="movielens-100k"),
        events=tmp_path / "events",
        items=tmp_path / "items",
        users=tmp_path / "users",
        output=tmp_path / "out",
    )
    assert not passed
    report = json.loads((tmp_path / "out" / "validation.json").read_text())
    broken = broken_of(report)
    assert {column for _, column, _ in broken} == {"rating"}
    assert all("rating" in finding["error"] for finding in broken.values())
    with pytest.raises(GateError, match=r"events\.rating a number is not checked"):
        enforce_gate(folder=tmp_path / "out")


def test_an_expectation_that_cannot_run_never_passes():
    rule = Rule(
        table="events",
        column="rating",
        must="a number",
        fault="",
        way_out="",
        expectation="ExpectColumnValuesToNotBeNull",
        arguments={"column": "no such column"},
    )
    frame = pa.table({"rating": np.ones(3)}).to_pandas()
    (finding,) = run_expectations("events", frame, [rule])
    assert not finding.passed
    assert "no such column" in finding.error


def test_a_truncated_table_is_one_sentence(tables, tmp_path):
    tables.validate()
    content = (tmp_path / "items").read_bytes()
    (tmp_path / "items").write_bytes(content[:-20])
    with pytest.raises(DataError, match=r"items: not a whole Parquet file .*; ingest the data again"):
        validate_tables(
            ValidationSettings(),
            DataSettings(source="movielens-100k"),
            events=tmp_path / "events",
            items=tmp_path / "items",
            users=tmp_path / "users",
            output=tmp_path / "other",
        )
    assert not (tmp_path / "other").exists()


def test_the_page_stands_alone_and_escapes_what_the_data_says(tables):
    tables.items[2] |= {"title": ""}
    tables.events[7]["item_id"] = "<script>alert(1)</script>"
    tables.validate()
    page = (tables.folder / "out" / "validation.html").read_text()
    assert "The data breaks 2 rules" in page
    assert "events.item_id: 1 of 40 rows name an id that items lacks" in page
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert re.findall(r"(?:src|href|url)\s*[=(]", page) == []


def test_a_bound_that_is_not_a_time_is_refused_with_the_settings():
    with pytest.raises(ConfigError, match="max_timestamp 'soon' is not ISO 8601"):
        DataSettings.parse({"source": "movielens-100k", "max_timestamp": "soon"})
    with pytest.raises(ConfigError, match="min_rating 5 is above max_rating 1"):
        ValidationSettings.parse({"min_rating": 5, "max_rating": 1})
