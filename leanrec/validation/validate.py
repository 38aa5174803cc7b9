"""Run the suites over the canonical tables and write down what they found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from leanrec.config import DataSettings, ValidationSettings
from leanrec.errors import DataError
from leanrec.files import atomic_directory, write_json, write_text
from leanrec.gates import Check, write_gate
from leanrec.journal import step
from leanrec.validation.expectations import Finding, run_expectations
from leanrec.validation.page import render_page
from leanrec.validation.suites import (
    ITEM_KNOWN,
    USER_KNOWN,
    Rule,
    events_suite,
    items_suite,
    users_suite,
)

_KEYS = {"events": "event_id", "items": "item_id", "users": "user_id"}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a rule.

    error: why it could not be checked, if so. observed: what the column holds. failing_rows: up to 20
    of the broken rows: number (from 1, in the canonical table), the row's id, and the value.
    """

    rule: Rule
    passed: bool
    error: str | None
    num_rows: int
    num_failing: int
    observed: str
    failing_rows: list[dict[str, Any]]

    @property
    def sentence(self) -> str:
        """Where to look and what to do; empty when the rule is kept."""
        name = f"{self.rule.table}.{self.rule.column}"
        if self.passed:
            return ""
        if self.error is not None:
            return f"{name}: the rule '{self.rule.must}' could not be checked ({self.error}); mend the table"
        if self.rule.column == "rows":
            return f"{self.rule.table}: {self.num_rows:,} rows {self.rule.fault}; {self.rule.way_out}"
        example = self.failing_rows[0]
        return (
            f"{name}: {self.num_failing:,} of {self.num_rows:,} rows {self.rule.fault} "
            f"(observed {self.observed}; e.g. row {example['row']}: {example['value']}); {self.rule.way_out}"
        )

    def to_check(self) -> Check:
        """The outcome as one line of gate.json."""
        is_count = self.rule.column == "rows"
        value = self.num_rows if is_count else self.num_failing
        return Check(
            figure=self.rule.figure,
            value="not checked" if self.error else value,
            bound=self.rule.must if is_count else "0 rows",
            passed=self.passed,
            detail=self.sentence,
        )

    def to_json(self) -> dict[str, Any]:
        """The outcome as one expectation of validation.json."""
        return {
            "table": self.rule.table,
            "column": self.rule.column,
            "rule": self.rule.must,
            "expectation": self.rule.expectation,
            "passed": self.passed,
            "error": self.error,
            "observed": self.observed,
            "num_rows": self.num_rows,
            "num_failing": self.num_failing,
            "failing_rows": self.failing_rows,
            "message": self.sentence,
        }


@step("validate_tables")
def validate_tables(
    settings: ValidationSettings, data: DataSettings, *, events: Path, items: Path, users: Path, output: Path
) -> bool:
    """Hold the tables against their suites; True when every rule is kept.

    Writes `gate.json`, `validation.json` and `validation.html` into the folder `output`. A broken
    rule is a result and raises nothing: the gate stops the run. A DataError when a file is not Parquet.
    """
    tables = {"events": _read(events), "items": _read(items), "users": _read(users)}
    latest = data.latest_accepted() or datetime.now(UTC)
    suites = {
        "events": events_suite(settings, latest),
        "items": items_suite(settings),
        "users": users_suite(settings),
    }
    outcomes = []
    for name, table in tables.items():
        frame = _frame(name, tables)
        findings = run_expectations(name, frame, suites[name])
        observed = {column: _observed(column, table) for column in {rule.column for rule in suites[name]}}
        outcomes += [
            _outcome(rule, finding, table, observed[rule.column])
            for rule, finding in zip(suites[name], findings, strict=True)
        ]
    with atomic_directory(Path(output)) as folder:
        passed = write_gate(folder, "validation", [outcome.to_check() for outcome in outcomes])
        report = {
            "passed": passed,
            "latest_accepted": latest.isoformat(),
            "rows": {name: len(table) for name, table in tables.items()},
            "expectations": [outcome.to_json() for outcome in outcomes],
        }
        write_json(folder / "validation.json", report)
        write_text(folder / "validation.html", render_page(report, tables["events"]))
    return passed


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(Path(path))
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: not a whole Parquet file ({reason}); ingest the data again") from None


def _frame(name: str, tables: dict[str, pa.Table]) -> pd.DataFrame:
    """The table as pandas; events also say whether their user and item are known.

    Ids that repeat become categories, which halves the time that the suites take.
    """
    table = tables[name]
    if name == "events":
        for flag, key, other in ((USER_KNOWN, "user_id", "users"), (ITEM_KNOWN, "item_id", "items")):
            if key in table.column_names and key in tables[other].column_names:
                known = pc.is_in(table[key], value_set=tables[other][key].combine_chunks())
                table = table.append_column(flag, known)
    repeated = ["user_id", "item_id"] if name == "events" else []
    return table.to_pandas(categories=[column for column in repeated if column in table.column_names])


def _outcome(rule: Rule, finding: Finding, table: pa.Table, observed: str) -> Outcome:
    key = table[_KEYS[rule.table]] if _KEYS[rule.table] in table.column_names else None
    return Outcome(
        rule=rule,
        passed=finding.passed,
        error=finding.error,
        num_rows=len(table),
        num_failing=finding.num_failing,
        observed=observed,
        failing_rows=[
            {
                "row": position + 1,
                "id": _shown(key[position].as_py()) if key is not None else "",
                "value": _value(rule, table, position),
            }
            for position in finding.positions
        ],
    )


def _value(rule: Rule, table: pa.Table, position: int) -> str:
    names = [name for name in rule.column.split(", ") if name in table.column_names]
    return ", ".join(_shown(table[name][position].as_py()) for name in names)


def _observed(name: str, table: pa.Table) -> str:
    """The span of a column of times or numbers, else how many values it has."""
    if name == "rows" or ", " in name:
        return f"{len(table):,} rows"
    if name not in table.column_names:
        return "no such column"
    column = table[name].drop_null()
    if pa.types.is_floating(column.type):
        column = column.filter(pc.invert(pc.is_nan(column)))
    if not (pa.types.is_floating(column.type) or pa.types.is_timestamp(column.type)):
        return f"{pc.count_distinct(column).as_py():,} distinct"
    if len(column) == 0:
        return "no value"
    span = pc.min_max(column).as_py()
    return f"{_shown(span['min'])} to {_shown(span['max'])}"


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else f"{value:g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    text = str(value)
    return repr(text) if text.strip() != text or not text else text
