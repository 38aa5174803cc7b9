"""Which release answers: the targets of a user are asked in their order, until one does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from leanrec.errors import ServingError
from leanrec.triton.async_client import NotServedError
from serving.gateway.releases import Target

T = TypeVar("T")
ROUNDS = 2
"""Times that targets are asked, where Triton lacks them all."""
Failed = list[tuple[Target, ServingError]]
"""Releases that were asked and did not answer, and why."""


@dataclass(frozen=True, kw_only=True)
class First(Generic[T]):
    """The first that answered."""

    target: Target
    answer: T


async def first_answer(
    targets: Sequence[Target], ask: Callable[[Target, float], Awaitable[T]], ends: float
) -> tuple[First[T] | None, Failed]:
    """The first of `targets` that answers `ask`, None where none does; and those that failed before it.

    `ask` is told the loop's time by which the target must answer: `ends` for all, but one whose failure sends
    the user on, as a candidate's does, leaves half of the time to those behind it.

    A release of before is asked where Triton lacks what is wanted, not where it fails. Where it lacks all,
    they are asked again: on its way from one to another, Triton may have lacked each just when it was asked.
    """
    failed: Failed = []
    for _ in range(ROUNDS):
        failed = []
        for number, target in enumerate(targets, 1):
            if target.is_older and failed and not _is_lacking(failed[-1]):
                break
            try:
                return First(target=target, answer=await ask(target, _end(targets[number:], ends))), failed
            except ServingError as error:
                failed.append((target, error))
        if not all(map(_is_lacking, failed)):
            break
    return None, failed


def _end(behind: Sequence[Target], ends: float) -> float:
    """When a target must have answered that has these `behind` it."""
    if all(target.is_older for target in behind):
        return ends
    now = asyncio.get_running_loop().time()
    return now + (ends - now) / 2


def _is_lacking(failure: tuple[Target, ServingError]) -> bool:
    """Whether Triton does not serve what was asked for, and has not failed."""
    return isinstance(failure[1], NotServedError)
