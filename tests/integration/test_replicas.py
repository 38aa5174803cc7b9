"""Real training with the tables twice: when the two are averaged, and what is learnt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from other_worker import RUN
from training_world import SMALL, write_world

from leanrec.files import read_json

pytestmark = pytest.mark.integration

STEPS = 18
"""Of an epoch: 17 of 32 events, one of the other 16."""
TWICE = SMALL.model_copy(
    update={
        "num_processes": 4,
        "replicas": 2,
        "sync_every": 5,
        "sharding": {"category": "data_parallel"},
        "retriever": SMALL.retriever.model_copy(update={"batch_size": 32}),
        "checkpoint_every_s": 1e-6,
    }
)


def test_replicas_are_averaged_every_few_steps_and_checkpoints_are_written_just_then(tmp_path: Path) -> None:
    write_world(tmp_path)
    worker = Path(__file__).parents[1] / "training" / "syncing_worker.py"
    settings = json.dumps(TWICE.model_dump(mode="json"))
    subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path), settings, str(worker)],
        env={**os.environ, "RECORD": str(tmp_path / "record")},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    between = ["step"] * 5 + ["average", "save"]
    epoch = between * 3 + ["step"] * 3 + ["average", "save"]
    record = (tmp_path / "record").read_text().split()
    assert record[: len(epoch)] == epoch
    retriever = epoch * SMALL.retriever.epochs
    assert record[: len(retriever)] == retriever
    summary = read_json(tmp_path / "summary.json")
    assert summary["num_processes"] == 4
    assert summary["valid_ndcg"] > 0.3 and summary["valid_auc"] > 0.8
