"""From a release to feedback to the next release: what it learnt from, and when there is nothing to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from tiny_workspace import NUM_ITEMS, make_workspace

from leanrec.data.event_log import EventLog, FeedbackEvent
from leanrec.data.vocabulary import Vocabularies
from leanrec.files import read_json

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
NEW_USER = "f" * 32
NOW = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)


def leanrec(folder: Path, *arguments: str) -> dict:
    """Run the command in the workspace, as a person would; what it prints as JSON."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from leanrec.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments, "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def tell(folder: Path, events: list[FeedbackEvent]) -> None:
    with EventLog(folder / "log", "test") as log:
        log.append(events)


def acted(number: int, user: str, item: str, kind: str, rating: float | None = None) -> FeedbackEvent:
    return FeedbackEvent(
        event_id=f"{kind}-{number}",
        user_id=user,
        item_id=item,
        type=kind,
        rating=rating,
        timestamp=NOW + timedelta(minutes=number),
        request_id=f"r{number}",
        release=1,
    )


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("retraining")
    config = make_workspace(
        folder,
        data={"source": "csv", "feedback": "log", **_files()},
        compression={"recipes": ["fp32"]},
        training={"warm_start": "release", "warm_epochs": 1, **_small()},
    )
    assert yaml.safe_load(config.read_text())["data"]["feedback"] == "log"
    return folder


def _files() -> dict:
    return {"events": "raw/events.csv", "items": "raw/items.csv", "user_attributes": []}


def _small() -> dict:
    return {
        "num_processes": 1,
        "num_candidates": 40,
        "top_k": 20,
        "retriever": {"epochs": 2, "dim": 16},
        "ranker": {"epochs": 1, "dim": 8, "hidden": [16]},
    }


def test_the_next_release_has_learnt_from_what_people_did(workspace):
    first = leanrec(workspace, "retrain", "run.yaml")
    assert first["release"]["version"] == 1 and first["reason"] == "there is no release yet"

    with (workspace / "raw" / "items.csv").open("a") as items:
        items.write(f"i{NUM_ITEMS},A new item,drama,2020\n")
    shown = [acted(n, NEW_USER, f"i{n}", "impression") for n in range(8)]
    clicks = [acted(n, NEW_USER, f"i{n}", "click") for n in range(4)]
    ratings = [acted(n, NEW_USER, f"i{n}", "rating", 5.0) for n in range(10, 20)]
    unknown = [acted(99, NEW_USER, "nobody knows it", "rating", 5.0)]
    new_item = [acted(30, NEW_USER, f"i{NUM_ITEMS}", "rating", 5.0)]
    tell(workspace, [*shown, *clicks, *ratings, *unknown, *new_item])

    second = leanrec(workspace, "retrain", "run.yaml", "--compare")
    assert second["release"]["version"] == 2
    repository = workspace / "stores" / "models"
    release = repository / "recommender" / "2" / "release"
    manifest = read_json(release / "manifest.json")
    feedback = manifest["lineage"]["feedback"]
    assert feedback["num_events"] == 24 and feedback["watermark"]
    assert feedback["num_joined"] == 15 and feedback["unknown_items"] == ["nobody knows it"]
    assert {"model.safetensors", "optimizer.safetensors"} <= {
        Path(name).name for name in manifest["files"] if "/release/model/" in name
    }
    assert "release 1" in read_json(release / "judgement.json")["comparisons"]
    vocabularies = Vocabularies.load(release / "vocabulary")
    assert vocabularies.users.index_of([NEW_USER])[0] > 0
    assert f"i{NUM_ITEMS}" in pq.read_table(release / "items.parquet")["item_id"].to_pylist()
    assert second["drift"]["newest"] == 1 and second["drift"]["num_new_acts"] == 16
    assert read_json(repository / "online.json")["releases"]["1"]["click_through"] == 0.5

    starts = read_json(release / "model" / "starts.json")
    assert starts["starts"]["full"]["epochs"]["retriever"] == 2, "from nothing: all the epochs"
    assert starts["starts"]["warm"]["epochs"]["retriever"] == 1
    assert read_json(workspace / second["report"].replace(".html", ".json"))["starts"] == starts
    page = (workspace / second["report"]).read_text()
    assert "Trained from the release, and from nothing" in page and starts["reason"] in page

    third = leanrec(workspace, "retrain", "run.yaml")
    assert third == {
        "retrain": False,
        "reason": "nothing to do: no rating or click since release 2",
        "release": None,
    }


def test_without_drift_the_run_ends_before_training(workspace):
    tell(workspace, [acted(200, NEW_USER, "i40", "rating", 5.0)])
    ended = leanrec(workspace, "retrain", "run.yaml", "--if-drifted")
    assert not ended["retrain"] and "no drift in 1 new event" in ended["reason"]
    assert ended["release"] is None and Path(workspace, ended["report"]).exists()
