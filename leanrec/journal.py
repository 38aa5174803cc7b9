"""The run's journal: one line a step, with its seconds and, if it failed, why.

`leanrec run` names the file in the environment variable LEANREC_JOURNAL, and every step that
runs below it appends to it. Where the variable is unset (in the cluster, where Kubeflow keeps
these facts itself) nothing is written. No step ever reads the journal: it is no way to pass data.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from leanrec.errors import LeanRecError

JOURNAL_VARIABLE = "LEANREC_JOURNAL"

P = ParamSpec("P")
R = TypeVar("R")


def step(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark the one library call of a component as the step `name`: it is timed and journalled."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            started = time.time()
            clock = time.perf_counter()
            error: BaseException | None = None
            try:
                return function(*args, **kwargs)
            except BaseException as raised:
                error = raised
                raise
            finally:
                _append(_line(name, started, time.perf_counter() - clock, error))

        return wrapper

    return decorate


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The journal's lines, oldest first: step, started (epoch seconds), seconds, error."""
    if not Path(path).exists():
        return []
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line]


def _line(name: str, started: float, seconds: float, error: BaseException | None) -> dict[str, Any]:
    line: dict[str, Any] = {"step": name, "started": started, "seconds": seconds, "error": None}
    if error is not None:
        line["error"] = {
            "type": type(error).__name__,
            "message": str(error),
            "ours": isinstance(error, LeanRecError),
        }
    return line


def _append(line: dict[str, Any]) -> None:
    path = os.environ.get(JOURNAL_VARIABLE)
    if not path:
        return
    with Path(path).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")
