"""Run the compiled pipeline on this machine with KFP's own local runner.

The runner works in a process of its own, whose output is the run's log. This process watches the
run's journal, tells what happens, and sees to it that nothing is left behind when it is stopped.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from leanrec.errors import ERRORS_BY_NAME, LeanRecError
from leanrec.files import read_json, write_json
from leanrec.journal import JOURNAL_VARIABLE, StepRecord, read_journal, read_lines

POLL_S = 0.1
STOP_GRACE_S = 15.0
PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """Where a run keeps what it is told, what it does and what it makes."""

    path: Path

    @property
    def journal(self) -> Path:
        """The journal (JSON lines)."""
        return self.path / "journal.jsonl"

    @property
    def log(self) -> Path:
        """Everything that KFP and the steps print."""
        return self.path / "run.log"

    @property
    def package(self) -> Path:
        """The compiled pipeline."""
        return self.path / "pipeline.yaml"

    @property
    def arguments(self) -> Path:
        """The pipeline's arguments (JSON)."""
        return self.path / "arguments.json"


def run_pipeline(
    folder: RunFolder, arguments: dict[str, Any], *, cache: Path, watch: Callable[[dict[str, Any]], None]
) -> None:
    """Run the compiled pipeline in `folder`.

    Args:
        folder: Holds the compiled pipeline; takes the log, the journal and the artifacts.
        arguments: The pipeline's arguments.
        cache: KFP's cache, shared by the runs of one working directory.
        watch: Called with each line of the journal as it appears.

    Raises:
        LeanRecError: Of the failed step, with its message; the class tells the exit status.
    """
    write_json(folder.arguments, {"arguments": arguments, "cache": str(cache)})
    with folder.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.run_local", str(folder.path)],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, JOURNAL_VARIABLE: str(folder.journal.resolve())},
        )
        try:
            _follow(process, folder.journal, watch)
        finally:
            _stop(process)
    if process.returncode != 0:
        raise _failure(folder, process.returncode)


def _follow(process: subprocess.Popen[bytes], journal: Path, watch: Callable[[dict[str, Any]], None]) -> None:
    shown = 0
    while True:
        ended = process.poll() is not None
        lines = read_lines(journal)
        for line in lines[shown:]:
            watch(line)
        shown = len(lines)
        if ended:
            return
        time.sleep(POLL_S)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Leave no process of the run behind: ask the whole family to stop, then make it."""
    if process.poll() is not None:
        return
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.send_signal(signal.SIGINT)
    _, alive = psutil.wait_procs(family, timeout=STOP_GRACE_S)
    for member in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


def _failure(folder: RunFolder, status: int) -> LeanRecError:
    records = read_journal(folder.journal)
    failed = next((record for record in reversed(records) if record.error), None)
    if failed is None:
        return LeanRecError(_silent_end(records, folder, status))
    error = failed.error or {}
    if error.get("ours"):
        return ERRORS_BY_NAME.get(error["type"], LeanRecError)(error["message"])
    return LeanRecError(
        f"step {failed.step} failed with {error['type']}: {error['message']}; see {folder.log}"
    )


def _silent_end(records: list[StepRecord], folder: RunFolder, status: int) -> str:
    unfinished = [record.step for record in records if record.seconds is None]
    if unfinished:
        return f"step {unfinished[-1]} was killed before it ended (out of memory?); see {folder.log}"
    return f"the pipeline ended with status {status} outside of every step; see {folder.log}"


def _execute(folder: RunFolder) -> int:
    """The body of the runner's own process, which ends with the one that watches it."""
    from kfp import components, local

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    request = read_json(folder.arguments)
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(folder.path / "artifacts"),
        enable_caching=True,
        cache_root=request["cache"],
        raise_on_error=False,
    )
    pipeline = components.load_component_from_file(str(folder.package))
    task = pipeline(**request["arguments"])
    return 0 if task.outputs else 1


if __name__ == "__main__":
    sys.exit(_execute(RunFolder(path=Path(sys.argv[1]))))
