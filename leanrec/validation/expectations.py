"""Great Expectations, in the one way that LeanRec uses it: a pandas frame against a suite, in memory."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pandas as pd

from leanrec.validation.suites import Rule

MAX_FAILING_ROWS = 20


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one expectation found.

    error: why it could not run; such a finding never passes. positions: the first failing rows, from 0.
    """

    passed: bool
    error: str | None = None
    num_failing: int = 0
    positions: tuple[int, ...] = ()


def run_expectations(name: str, frame: pd.DataFrame, rules: list[Rule]) -> list[Finding]:
    """One finding for each rule, in the rules' order. `frame` has its default index."""
    gx = _great_expectations()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas(name).add_dataframe_asset(name)
    suite = gx.ExpectationSuite(name=name)
    for number, rule in enumerate(rules):
        expectation = getattr(gx.expectations, rule.expectation)
        # The results come back in an order of their own: the number finds the rule again.
        suite.add_expectation(expectation(**rule.arguments, meta={"rule": number}))
    validation = gx.ValidationDefinition(
        name=name, data=asset.add_batch_definition_whole_dataframe(name), suite=context.suites.add(suite)
    )
    outcome = validation.run(
        batch_parameters={"dataframe": frame},
        result_format={"result_format": "SUMMARY", "partial_unexpected_count": MAX_FAILING_ROWS},
    )
    findings = {result.expectation_config.meta["rule"]: _finding(result) for result in outcome.results}
    missing = Finding(passed=False, error="Great Expectations gave no result")
    return [findings.get(number, missing) for number in range(len(rules))]


def _finding(result: Any) -> Finding:
    """A result as ours. `success` alone does not tell a broken rule from one that could not run."""
    error = _exception_message(result.exception_info)
    if error is not None:
        return Finding(passed=False, error=error)
    return Finding(
        passed=bool(result.success),
        num_failing=int(result.result.get("unexpected_count", 0)),
        positions=tuple(int(row) for row in result.result.get("partial_unexpected_index_list") or ()),
    )


def _exception_message(facts: dict[str, Any]) -> str | None:
    """The first exception in `exception_info`, which is one record or a record for each metric."""
    records = [facts] if "raised_exception" in facts else list(facts.values())
    for record in records:
        if record["raised_exception"]:
            return " ".join(str(record["exception_message"]).split()) or "unknown error"
    return None


def _great_expectations() -> ModuleType:
    """The library, imported with its usage reports switched off."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx

    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    return gx
