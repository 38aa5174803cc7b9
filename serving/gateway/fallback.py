"""Which release answers: the targets of a user are asked in their order, until one does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from leanrec.errors import ServingError
from leanrec.triton.async_client import NotServedError
from serving.gateway.releases import Target

T = TypeVar("T")
ROUNDS = 2
"""Times that targets are asked, where Triton lacks them all."""
Failed = list[tuple[Target, ServingError]]
"""Releases that were asked and did not answer, and why."""
Ask = Callable[[Target, float], Awaitable[T]]
"""Asks a target, which must answer by the loop's time."""
Asked = tuple["First[T] | None", Failed]
"""The first that answered, and those that failed before it."""


@dataclass(frozen=True, kw_only=True)
class First(Generic[T]):
    """The first that answered."""

    target: Target
    answer: T
    late: asyncio.Task[Asked[T]] | None = None
    """A candidate in whose place this one answered, and which still has time: what becomes of it."""


async def first_answer(targets: Sequence[Target], ask: Ask[T], ends: float) -> Asked[T]:
    """The first of `targets` that answers `ask`, None where none does; and those that failed before it.

    Every target has until `ends`, the loop's time. When a candidate has used half of what is left, those
    behind it are asked beside it, so that its users need not wait it out, and whichever answers first counts.
    That a candidate is slower than half of the time is no failure, for the stable version is held to all of
    it: its ask runs on (`First.late`), and it is for the caller to count what becomes of it.

    A release of before is asked where Triton lacks what is wanted, not where it fails. Where it lacks all,
    they are asked again: on its way from one to another, Triton may have lacked each just when it was asked.
    """
    failed: Failed = []
    for _ in range(ROUNDS):
        if len(targets) > 1 and targets[0].stage == "candidate":
            first, failed = await _beside(targets[0], targets[1:], ask, ends)
        else:
            first, failed = await _in_turn(targets, ask, ends)
        if first is not None or not all(map(_is_lacking, failed)):
            return first, failed
    return None, failed


async def _in_turn(targets: Sequence[Target], ask: Ask[T], ends: float) -> Asked[T]:
    failed: Failed = []
    for target in targets:
        if target.is_older and failed and not _is_lacking(failed[-1]):
            break
        try:
            return First(target=target, answer=await ask(target, ends)), failed
        except ServingError as error:
            failed.append((target, error))
    return None, failed


async def _beside(candidate: Target, others: Sequence[Target], ask: Ask[T], ends: float) -> Asked[T]:
    """The candidate alone until it fails or half of the time is over, then with the others beside it."""
    own = asyncio.create_task(_in_turn([candidate], ask, ends))
    theirs: asyncio.Task[Asked[T]] | None = None
    late = False
    try:
        await asyncio.wait([own], timeout=(ends - asyncio.get_running_loop().time()) / 2)
        if _has_answered(own):
            return own.result()
        theirs = asyncio.create_task(_in_turn(others, ask, ends))
        under_way: set[asyncio.Task[Asked[T]]] = {own, theirs}
        while under_way:
            _, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            if _has_answered(own):
                return own.result()
            if _has_answered(theirs):
                first, failed = theirs.result()
                assert first is not None
                if own.done():
                    return first, own.result()[1] + failed
                late = True
                return replace(first, late=own), failed
        return None, own.result()[1] + theirs.result()[1]
    finally:
        if not late:
            own.cancel()
        if theirs is not None:
            theirs.cancel()


def _has_answered(asked: asyncio.Task[Asked[T]]) -> bool:
    return asked.done() and asked.result()[0] is not None


def _is_lacking(failure: tuple[Target, ServingError]) -> bool:
    """Whether Triton does not serve what was asked for, and has not failed."""
    return isinstance(failure[1], NotServedError)
