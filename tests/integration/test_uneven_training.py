"""Real training in which one process is slow: what each takes, killed in the midst of an epoch or not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from other_worker import RUN
from training_world import SMALL, write_world

from leanrec.files import read_json

pytestmark = pytest.mark.integration

TESTS = Path(__file__).resolve().parents[1]
EVENTS = 560
"""Training events of the tiny world."""
STEPS = 18
"""Of an epoch: 17 of 32 events, one of the other 16."""
UNEVEN = SMALL.model_copy(
    update={
        "num_processes": 2,
        "balance": "measured",
        "retriever": SMALL.retriever.model_copy(update={"batch_size": 32}),
        "checkpoint_every_s": 1e-6,
        "keep_checkpoints": 1,
    }
)
BEFORE = SMALL.retriever.epochs * STEPS
"""Steps of the retriever, before the ranker's first."""
PATIENCE_S = 600


def started(folder: Path, slow_s: float = 0.01) -> subprocess.Popen:
    """A training of two processes, of which the second waits `slow_s` for each event."""
    write_world(folder)
    (folder / "records").mkdir()
    worker = TESTS / "training" / "recording_worker.py"
    settings = json.dumps(UNEVEN.model_dump(mode="json"))
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder), settings, str(worker)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "RECORDS": str(folder / "records"), "SLOW_S": str(slow_s)},
    )


def end_of(process: subprocess.Popen) -> str:
    printed, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, printed
    return printed


def shares(folder: Path) -> list[dict[int, list[list[int]]]]:
    """The attempts in their order: process -> the rows of each of its steps."""
    files = sorted((folder / "records").iterdir(), key=lambda file: file.stat().st_mtime)
    found: dict[str, dict[int, list[list[int]]]] = {}
    for file in files:
        attempt, rank = file.stem.split("-")
        lines = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
        found.setdefault(attempt, {})[int(rank)] = [line["rows"] for line in lines if line["of"] == EVENTS]
    return list(found.values())


def assert_each_once(*parts: list[list[int]]) -> None:
    rows = [row for steps in parts for step in steps for row in step]
    assert sorted(rows) == list(range(EVENTS)), "an event was taken twice, or left out"


def test_the_slow_process_takes_less_and_no_event_is_lost(tmp_path):
    printed = end_of(started(tmp_path))
    told = re.findall(r"of 1,000 events processes 0 to 1 take \[(\d+), (\d+)\]", printed)
    assert len(told) == SMALL.retriever.epochs + SMALL.ranker.epochs
    assert all(int(quick) > int(slow) > 0 for quick, slow in told)
    (attempt,) = shares(tmp_path)
    for first in range(0, BEFORE + SMALL.ranker.epochs * STEPS, STEPS):
        quick, slow = (attempt[rank][first : first + STEPS] for rank in (0, 1))
        assert len(quick) == len(slow) == STEPS
        assert all(len(more) > len(less) > 0 for more, less in zip(quick, slow, strict=True))
        assert_each_once(quick, slow)
    summary = read_json(tmp_path / "summary.json")
    assert summary["valid_ndcg"] > 0.3 and summary["valid_auc"] > 0.8


def test_killed_in_mid_epoch_it_goes_on_with_the_same_shares_of_the_same_events(tmp_path):
    process = started(tmp_path)
    wait_for_mid_epoch(tmp_path / "model.checkpoint" / "ranker", process)
    (torchrun,) = psutil.Process(process.pid).children()
    torchrun.children()[1].kill()
    printed = end_of(process)
    (epochs, steps) = map(
        int, re.search(r"ranker: going on after epoch (\d+) and (\d+) steps", printed).groups()
    )
    killed, went_on = shares(tmp_path)
    first = BEFORE + epochs * STEPS
    before = [killed[rank][first : first + steps] for rank in (0, 1)]
    after = [went_on[rank][: STEPS - steps] for rank in (0, 1)]
    assert_each_once(*before, *after)
    for rank in (0, 1):
        of_a_whole_batch = [len(step) for step in [*before[rank], *after[rank]][:-1]]
        assert len(set(of_a_whole_batch)) == 1, "the shares changed within the epoch"
        rest = went_on[rank][STEPS - steps :]
        assert len(rest) == (SMALL.ranker.epochs - epochs - 1) * STEPS
    for place in range(STEPS - steps, len(went_on[0]), STEPS):
        assert_each_once(*(went_on[rank][place : place + STEPS] for rank in (0, 1)))
    summary = read_json(tmp_path / "summary.json")
    assert summary["valid_ndcg"] > 0.3 and summary["valid_auc"] > 0.8
    assert summary["ranker_epochs"] == SMALL.ranker.epochs


def wait_for_mid_epoch(folder: Path, process: subprocess.Popen) -> None:
    """Return once a checkpoint lies there that is neither of an epoch's first steps nor of its end."""
    deadline = time.monotonic() + PATIENCE_S
    while not _in_mid_epoch(folder):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for a checkpoint in mid-epoch"
        time.sleep(0.02)


def _in_mid_epoch(folder: Path) -> bool:
    manifests = sorted(folder.glob("[0-9]*/checkpoint.json"))
    try:
        return bool(manifests) and read_json(manifests[-1])["progress"]["step"] >= 3
    except (OSError, ValueError):  # it was removed for a newer one
        return False
