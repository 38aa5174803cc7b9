"""The training step: torchrun with N processes, and their outcome as a model folder or as one sentence."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import deque
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from leanrec.config import TrainingSettings
from leanrec.errors import TrainingError
from leanrec.files import atomic_directory, read_json
from leanrec.journal import step
from leanrec.training.job import ERROR_FILE, MODELS, SUMMARY_FILE, Job, last_word

GRACE_S = 5.0
"""Seconds that torchrun gets to end its processes before they are killed."""


@step("train_models")
def train_models(
    settings: TrainingSettings,
    *,
    features: Path,
    training_set: Path,
    output: Path,
    warm_start: Path | None = None,
) -> dict[str, Any]:
    """Train retriever and ranker; write the model folder `output`; answer a summary of figures.

    Args:
        settings: The section `training`.
        features: The features folder (items.parquet, spec.json).
        training_set: The training set, one Parquet file.
        output: Folder to write: model.safetensors, model.json, curves.json, optimizer.safetensors.
        warm_start: The `release` folder of a release to go on from.

    Where a process is killed, training goes on from its newest checkpoint, `settings.max_restarts` times; a
    run that was killed as a whole does so when it is started again with the same settings and data. Raises a
    TrainingError with one sentence when training cannot start or go on; then `output` is as it was.
    """
    if settings.train_job is not None:
        from leanrec.training.train_job import train_on_cluster

        return train_on_cluster(
            settings,
            settings.train_job,
            features=features,
            training_set=training_set,
            output=output,
            warm_start=warm_start,
        )
    output = Path(output)
    checkpoints = Path(settings.checkpoint or output.parent / f"{output.name}.checkpoint")
    with tempfile.TemporaryDirectory(prefix="leanrec-training-") as folder, atomic_directory(output) as fresh:
        job = Job(
            settings=settings.model_dump(mode="json"),
            features=str(Path(features).resolve()),
            training_set=str(Path(training_set).resolve()),
            output=str(fresh.resolve()),
            checkpoints=str(checkpoints.resolve()),
            folder=folder,
            warm_start=str(Path(warm_start).resolve()) if warm_start else "",
            parent=os.getpid(),
        )
        (Path(folder) / "job.json").write_text(json.dumps(asdict(job)), encoding="utf-8")
        _run_to_the_end(settings, Path(folder))
        summary: dict[str, Any] = read_json(Path(folder) / SUMMARY_FILE)
    for model in MODELS:  # the folder may be one of the user's, and hold more
        shutil.rmtree(checkpoints / model, ignore_errors=True)
    with suppress(OSError):
        checkpoints.rmdir()
    return summary


def _run_to_the_end(settings: TrainingSettings, folder: Path) -> None:
    """Run the job in `folder`, again where a process was killed; a TrainingError says why it cannot end."""
    command = _torchrun(settings.num_processes, folder / "job.json")
    for restart in range(settings.max_restarts + 1):
        status, last_line = _run(command)
        if status == 0:
            return
        reason, is_final = _reason(folder, status, last_line)
        if is_final or restart == settings.max_restarts:
            raise TrainingError(reason)
        count = f"{restart + 1} of {settings.max_restarts}"
        print(f"training: {reason}; restart {count}, from the newest checkpoint", flush=True)
        for file in folder.glob(f"*{ERROR_FILE}"):
            file.unlink()


def _torchrun(num_processes: int, job: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={num_processes}",
        "-m",
        "leanrec.training.worker",
        str(job),
    ]


def _run(command: list[str]) -> tuple[int, str]:
    """Run torchrun, show what it says, and answer its status and the last line that tells of an error."""
    # The planner iterates over sets of strings: without a fixed hash seed its plan differs from run to run.
    environment = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", **os.environ}
    # A session of its own, so that the whole group can be ended and a Ctrl-C reaches us alone.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        env=environment,
    )
    errors: deque[str] = deque(maxlen=1)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(("retriever:", "ranker:")):
                print(line, end="", flush=True)
                continue
            print(line, end="", file=sys.stderr, flush=True)
            if "Error" in line:
                errors.append(line.strip())
        return process.wait(), errors[0] if errors else ""
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """End torchrun and whatever it started; the workers watch torchrun and follow it."""
    if process.poll() is None:
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, signal_number)
                process.wait(timeout=GRACE_S)
                break
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
    if process.stdout is not None:
        process.stdout.close()


def _reason(folder: Path, status: int, last_line: str) -> tuple[str, bool]:
    """Why training ended, and whether it would end so again."""
    word = last_word(folder)
    if word is not None:
        return word.message, word.final
    told = f" ({last_line})" if last_line else ""
    return (
        f"the training processes ended with status {status}{told}; start again to go on from the newest "
        "checkpoint, with a smaller training.retriever.batch_size if memory ran out"
    ), False
