"""Which release answers: every course that asking can take, by what each of them says."""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from leanrec.errors import ServingError
from leanrec.triton.async_client import NotServedError
from serving.gateway.fallback import first_answer

LACKS, FAILS = "lacks", "fails"


class Clock(selectors.DefaultSelector):
    """Nobody waits: where nothing is left to do, the time of the next timer has come."""

    now = 100.0

    def select(self, timeout: float | None = None) -> list:
        self.now += timeout or 0
        return super().select(0)


def run(course: Coroutine[Any, Any, None]) -> None:
    """`course` in a loop whose time begins at 100 and passes at once."""
    clock = Clock()

    def loop() -> asyncio.AbstractEventLoop:
        made = asyncio.SelectorEventLoop(clock)
        made.time = lambda: clock.now  # type: ignore[method-assign]
        return made

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(course)


def target(name: str) -> Any:
    stage = "candidate" if name == "candidate" else "stable"
    return SimpleNamespace(name=name, stage=stage, is_older=name.startswith("older"))


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
    ("takes_s", "asked_at", "answered", "failed"),
    [
        # Of two that are stable, as in every transition, the first has all the time.
        ({"stable": 7, "wanted": 1}, {"stable": 100}, ("stable", 107), []),
        ({"stable": 60, "wanted": 1}, {"stable": 100, "wanted": 108}, None, ["stable", "wanted"]),
        ({"candidate": 7}, {"candidate": 100}, ("candidate", 107), []),
        ({"candidate": 3, "stable": 1}, {"candidate": 100}, ("candidate", 103), []),
        # From half of the time on, the stable one is asked beside a candidate.
        ({"candidate": 5, "stable": 2}, {"candidate": 100, "stable": 104}, ("candidate", 105), []),
        ({"candidate": 6, "stable": 1}, {"candidate": 100, "stable": 104}, ("stable", 105), []),
        ({"candidate": 6, "stable": 60}, {"candidate": 100, "stable": 104}, ("candidate", 106), []),
        ({"candidate": 60, "stable": 1}, {"candidate": 100, "stable": 104}, ("stable", 105), ["candidate"]),
        (
            {"candidate": 60, "stable": 60, "older": 1},
            {"candidate": 100, "stable": 104},
            None,
            ["candidate", "stable"],
        ),
    ],
)
def test_all_have_all_the_time_and_nobody_waits_for_a_candidate_alone(
    takes_s: dict[str, float], asked_at: dict[str, float], answered: tuple | None, failed: list[str]
) -> None:
    """`failed`: also what is found out of a candidate after the stable one has answered."""
    asked: dict[str, float] = {}

    async def ask(target: Any, ends: float) -> str:
        loop = asyncio.get_running_loop()
        assert ends == 108
        asked[target.name] = pytest.approx(loop.time(), abs=0.01)
        if takes_s[target.name] > ends - loop.time():
            await asyncio.sleep(ends - loop.time())
            raise ServingError("no answer in time")
        await asyncio.sleep(takes_s[target.name])
        return "yes"

    async def course() -> None:
        first, found = await first_answer([target(name) for name in takes_s], ask, ends=108)
        now = asyncio.get_running_loop().time()
        assert (first and (first.target.name, pytest.approx(now, abs=0.01))) == answered
        if first and first.late:
            found = found + (await first.late)[1]
            assert asyncio.get_running_loop().time() <= 108.01
        assert asked == asked_at
        assert [target.name for target, _ in found] == failed

    run(course())


def test_who_no_longer_wants_an_answer_ends_every_question() -> None:
    cancelled: list[str] = []

    async def ask(target: Any, _ends: float) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(target.name)
            raise
        return "yes"

    async def course() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(6):
                await first_answer([target("candidate"), target("stable")], ask, ends=108)
        await asyncio.sleep(0)
        assert sorted(cancelled) == ["candidate", "stable"]

    run(course())
