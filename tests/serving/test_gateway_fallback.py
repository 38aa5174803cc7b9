"""Which release answers: every course that asking can take, by what each of them says."""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace
from typing import Any

import pytest

from leanrec.errors import ServingError
from leanrec.triton.async_client import NotServedError
from serving.gateway.fallback import first_answer

LACKS, FAILS = "lacks", "fails"


def target(name: str) -> Any:
    return SimpleNamespace(name=name, is_older=name.startswith("older"))


@pytest.mark.parametrize(
    ("course", "asked", "answered", "failed"),
    [
        ({}, [], None, []),
        ({"stable": ["yes"]}, ["stable"], "stable", []),
        ({"candidate": [FAILS], "stable": ["yes"]}, ["candidate", "stable"], "stable", ["candidate"]),
        ({"candidate": [LACKS], "stable": [FAILS]}, ["candidate", "stable"], None, ["candidate", "stable"]),
        # One that fails is not asked twice, whoever was asked after it.
        ({"candidate": [FAILS], "stable": [LACKS]}, ["candidate", "stable"], None, ["candidate", "stable"]),
        ({"stable": [FAILS], "older": ["yes"]}, ["stable"], None, ["stable"]),
        ({"stable": [LACKS], "older": ["yes"]}, ["stable", "older"], "older", ["stable"]),
        (
            {"stable": [LACKS], "older": [FAILS], "older 2": ["yes"]},
            ["stable", "older"],
            None,
            ["stable", "older"],
        ),
        # Triton goes over between two questions.
        ({"stable": [LACKS, "yes"], "older": [LACKS]}, ["stable", "older", "stable"], "stable", []),
        ({"stable": [LACKS, LACKS]}, ["stable", "stable"], None, ["stable"]),
    ],
)
def test_targets_are_asked_in_their_order_until_one_answers(
    course: dict[str, list[str]], asked: list[str], answered: str | None, failed: list[str]
) -> None:
    seen: list[str] = []
    left = {name: iter(answers) for name, answers in course.items()}

    async def ask(target: Any, _ends: float) -> str:
        seen.append(target.name)
        said = next(left[target.name])
        if said in (LACKS, FAILS):
            raise (NotServedError if said == LACKS else ServingError)(said)
        return said

    first, found = asyncio.run(first_answer([target(name) for name in course], ask, ends=math.inf))
    assert seen == asked
    assert (first and first.target.name) == answered
    assert [target.name for target, _ in found] == failed


@pytest.mark.parametrize(
    ("names", "left_s"),
    [
        (["stable"], [8]),
        (["candidate", "stable"], [4, 4]),
        (["candidate", "candidate by another name", "stable"], [4, 2, 2]),
        (["candidate", "stable", "older"], [4, 4]),
    ],
)
def test_whoever_is_asked_in_turn_ends_at_one_time_and_leaves_some_of_it_to_those_behind(
    names: list[str], left_s: list[float]
) -> None:
    given: list[float] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        now = 100.0
        loop.time = lambda: now  # type: ignore[method-assign]

        async def hang(_target: Any, ends: float) -> str:
            nonlocal now
            given.append(ends - now)
            now = ends
            raise ServingError("it does not answer")

        assert (await first_answer([target(name) for name in names], hang, ends=108.0))[0] is None
        assert now == 108

    asyncio.run(run())
    assert given == left_s
