"""The run's journal: what each step did, when, for how long and, if it failed, why.

`leanrec run` names the file in the environment variable LEANREC_JOURNAL, and every step that
runs below it appends JSON lines to it. Where the variable is unset (in the cluster, where
Kubeflow keeps these facts itself) nothing is written. No step ever reads the journal: it is
what a person watches, and no way to pass data.

    {"kind": "started",  "step": "train_models", "time": 1750000000.0, "loading": 2.1, "paths": {...}}
    {"kind": "progress", "step": "train_models", "done": 3, "total": 30, "message": "retriever: loss 5.1"}
    {"kind": "finished", "step": "train_models", "time": 1750000031.0, "seconds": 31.0, "error": null}

A step's seconds are those of the component's whole body: loading its libraries, then working. What the run
takes beyond its steps' seconds is orchestration: starting processes, KFP itself, the report.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import leanrec
from leanrec.errors import HostError, LeanRecError

JOURNAL_VARIABLE = "LEANREC_JOURNAL"

_import_times = [leanrec.IMPORTED_AT]
"""When this process began to load what its first step needs; taken once."""

P = ParamSpec("P")
R = TypeVar("R")


def step(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark the one library call of a component as the step `name`: it is timed and journalled."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            paths = {key: str(value) for key, value in kwargs.items() if isinstance(value, Path)}
            loading = _take_loading_seconds()
            started = time.time() - loading
            _append({"kind": "started", "step": name, "time": started, "loading": loading, "paths": paths})
            clock = time.perf_counter()
            error: BaseException | None = None
            try:
                return function(*args, **kwargs)
            except OSError as raised:
                error = _host_error(name, raised)
                raise error from raised
            except BaseException as raised:
                error = raised
                raise
            finally:
                seconds = loading + time.perf_counter() - clock
                _append(
                    {
                        "kind": "finished",
                        "step": name,
                        "time": time.time(),
                        "seconds": seconds,
                        "error": _facts_of(error),
                    }
                )

        return wrapper

    return decorate


def report_progress(name: str, done: int, total: int, message: str = "") -> None:
    """Tell whoever watches that the step `name` has done `done` of `total`."""
    _append({"kind": "progress", "step": name, "done": done, "total": total, "message": message})


@dataclass
class StepRecord:
    """One execution of a step as the journal tells it; `seconds` is None while it runs."""

    step: str
    started: float
    loading: float = 0.0
    """Seconds, part of `seconds`, that the step's libraries took to load."""
    paths: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None
    error: dict[str, Any] | None = None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Every whole line of the journal, oldest first; an unfinished last line is left out."""
    if not Path(path).exists():
        return []
    text = Path(path).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def read_journal(path: Path) -> list[StepRecord]:
    """The steps that ran, oldest first. A step that was reused from the cache did not run."""
    records: list[StepRecord] = []
    running: dict[str, StepRecord] = {}
    for line in read_lines(path):
        if line["kind"] == "started":
            record = StepRecord(
                step=line["step"], started=line["time"], loading=line["loading"], paths=line["paths"]
            )
            running[line["step"]] = record
            records.append(record)
        elif line["kind"] == "finished" and line["step"] in running:
            record = running.pop(line["step"])
            record.seconds = line["seconds"]
            record.error = line["error"]
    return records


def _take_loading_seconds() -> float:
    """What this process has spent on loading libraries; a later step of the same process spends nothing."""
    return time.perf_counter() - _import_times.pop() if _import_times else 0.0


def _host_error(name: str, error: OSError) -> OSError | HostError:
    """A full disk is the user's to mend, whichever step meets it first."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return error
    where = error.filename or "its output"
    return HostError(
        f"step {name}: the disk is full ({error.strerror}) while writing {where}; "
        "free some space and run again: nothing half-written was kept"
    )


def _facts_of(error: BaseException | None) -> dict[str, Any] | None:
    if error is None:
        return None
    return {"type": type(error).__name__, "message": str(error), "ours": isinstance(error, LeanRecError)}


def _append(line: dict[str, Any]) -> None:
    path = os.environ.get(JOURNAL_VARIABLE)
    if not path:
        return
    with Path(path).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")
