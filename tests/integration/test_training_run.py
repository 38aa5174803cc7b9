"""Real torchrun, real TorchRec tables: what comes out, what a kill leaves, what an error says."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_world import SMALL, training_table, write_world

from leanrec.config import TrainingSettings
from leanrec.config.optimizer import OptimizerSettings
from leanrec.errors import TrainingError
from leanrec.files import read_json
from leanrec.models.recommender import load_model
from leanrec.training.train import train_models

pytestmark = pytest.mark.integration

# Many steps an epoch, so that a kill in the midst of one finds it.
TWO = SMALL.model_copy(
    update={"num_processes": 2, "retriever": SMALL.retriever.model_copy(update={"batch_size": 32})}
)
PATIENCE_S = 600
RUN = """
import sys, json
from pathlib import Path
from leanrec.config import TrainingSettings
from leanrec.training.train import train_models
folder = Path(sys.argv[1])
train_models(TrainingSettings.parse(json.loads(sys.argv[2])), features=folder / "features",
             training_set=folder / "training_set.parquet", output=folder / "model")
"""


def train(folder: Path, settings: TrainingSettings, output: str = "model") -> dict:
    return train_models(
        settings,
        features=folder / "features",
        training_set=folder / "training_set.parquet",
        output=folder / output,
    )


def wait_until(condition, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A model that two processes trained without being disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_world(folder)
    summary = train(folder, TWO)
    assert summary["num_processes"] == 2 and summary["valid_ndcg"] > 0.3
    return folder / "model"


def test_a_killed_run_leaves_no_process_and_goes_on_to_the_same_weights(tmp_path, whole, capfd):
    curves = read_json(whole / "curves.json")
    assert [curve["epoch"] for curve in curves["ranker"]] == [1, 2, 3, 4]
    assert load_model(whole).spec.top_k == 5

    write_world(tmp_path)
    arguments = [sys.executable, "-c", RUN, str(tmp_path), json.dumps(TWO.model_dump(mode="json"))]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "model.checkpoint" / "retriever" / "000001"
    wait_until(lambda: checkpoint.exists() or process.poll() is not None, "the first checkpoint")
    started = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(started) >= 3
    wait_until(lambda: not any(child.is_running() for child in started), "the processes to end")
    assert not (tmp_path / "model").exists()

    capfd.readouterr()
    (tmp_path / "model.checkpoint" / "notes.txt").write_text("the user's own")
    train(tmp_path, TWO)
    assert "going on after epoch" in capfd.readouterr().out
    assert [path.name for path in (tmp_path / "model.checkpoint").iterdir()] == ["notes.txt"]
    assert_same_weights(whole, tmp_path / "model")


@pytest.mark.parametrize("changed", [{"prefetch": True}, {"plain_tables": "host"}])
def test_batches_made_ahead_or_plain_tables_on_the_host_end_with_the_same_weights(tmp_path, whole, changed):
    write_world(tmp_path)
    train(tmp_path, TWO.model_copy(update=changed))
    assert_same_weights(whole, tmp_path / "model")


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("retriever", {"checkpoint_every_s": 1e-6}),
        ("ranker", {"checkpoint_every_s": 1e-6}),
        # Not at every step, before which nothing is made ahead.
        ("ranker", {"checkpoint_every_s": 0.01, "prefetch": True}),
    ],
)
def test_a_process_killed_in_mid_epoch_is_started_again_and_ends_with_the_same_weights(
    tmp_path, whole, model, settings
):
    write_world(tmp_path)
    often = TWO.model_copy(update={**settings, "keep_checkpoints": 1})
    arguments = [sys.executable, "-c", RUN, str(tmp_path), json.dumps(often.model_dump(mode="json"))]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    wait_for_mid_epoch(tmp_path / "model.checkpoint" / model, process)
    (torchrun,) = psutil.Process(process.pid).children()
    workers = torchrun.children()
    assert len(workers) == 2
    workers[1].kill()
    printed, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, printed
    assert "restart 1 of 2, from the newest checkpoint" in printed
    assert re.search(rf"{model}: going on after epoch \d+( and \d+ steps)? of an earlier run", printed)
    assert not any(worker.is_running() for worker in workers)
    assert not (tmp_path / "model.checkpoint").exists()
    assert_same_weights(whole, tmp_path / "model")


def wait_for_mid_epoch(folder: Path, process: subprocess.Popen, num_checkpoints: int = 1) -> None:
    def is_there() -> bool:
        return len(list(folder.glob("[0-9]*"))) >= num_checkpoints and in_mid_epoch(folder)

    wait_until(lambda: is_there() or process.poll() is not None, "a checkpoint in mid-epoch")
    assert process.poll() is None, "the run ended before it could be killed"


def in_mid_epoch(folder: Path) -> bool:
    """Whether the newest checkpoint there was made within an epoch."""
    manifests = sorted(folder.glob("[0-9]*/checkpoint.json"))
    try:
        return bool(manifests) and read_json(manifests[-1])["progress"]["step"] > 0
    except (OSError, ValueError):  # it was removed for a newer one
        return False


def assert_same_weights(first: Path, second: Path) -> None:
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_a_run_killed_in_mid_epoch_goes_on_with_another_number_of_processes(tmp_path, capfd):
    write_world(tmp_path)
    often = TWO.model_copy(update={"checkpoint_every_s": 1e-6})
    arguments = [sys.executable, "-c", RUN, str(tmp_path), json.dumps(often.model_dump(mode="json"))]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_mid_epoch(tmp_path / "model.checkpoint" / "ranker", process, num_checkpoints=2)
    started = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: not any(child.is_running() for child in started), "the processes to end")
    newest = sorted((tmp_path / "model.checkpoint" / "ranker").glob("[0-9]*"))[-1]
    cut_off = min(newest.glob("*.safetensors"))
    cut_off.write_bytes(b"cut off")

    summary = train(tmp_path, TWO.model_copy(update={"num_processes": 1}))
    printed = capfd.readouterr().out
    assert f"ranker: checkpoint {newest} is not taken up: {cut_off.name} is not what was" in printed
    assert "ranker: going on after epoch" in printed
    assert summary["num_processes"] == 1 and summary["valid_ndcg"] > 0.3
    assert [curve["epoch"] for curve in read_json(tmp_path / "model" / "curves.json")["ranker"]] == [
        1,
        2,
        3,
        4,
    ]


def test_one_process_learns_the_taste_too_and_one_class_alone_is_refused(tmp_path):
    write_world(tmp_path)
    summary = train(tmp_path, SMALL)
    assert summary["valid_ndcg"] > 0.4 and summary["valid_auc"] > 0.8
    before = (tmp_path / "model" / "model.safetensors").read_bytes()

    table = training_table()
    place = table.schema.get_field_index("liked")
    write_world(tmp_path, table.set_column(place, "liked", pa.array([True] * table.num_rows)))
    with pytest.raises(TrainingError, match="every training event is liked") as caught:
        train(tmp_path, SMALL)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before


def test_a_loss_that_is_no_number_names_model_epoch_and_step(tmp_path, capfd):
    write_world(tmp_path)
    wild = SMALL.retriever.model_copy(update={"table_learning_rate": 1e30})
    said = r"retriever's loss is (nan|inf) in epoch 1, step \d, on a batch that begins with rows \d+, \d+"
    with pytest.raises(TrainingError, match=said):
        train(tmp_path, SMALL.model_copy(update={"retriever": wild}))
    assert "restart" not in capfd.readouterr().out
    assert not (tmp_path / "model").exists()


def test_training_stops_when_its_patience_is_out_and_keeps_the_best_epoch(tmp_path):
    write_world(tmp_path)
    update = {"epochs": 60, "patience": 2}
    parts = {part: getattr(SMALL, part).model_copy(update=update) for part in ("retriever", "ranker")}
    summary = train(tmp_path, SMALL.model_copy(update=parts))
    for epochs in read_json(tmp_path / "model" / "curves.json").values():
        figures = [epoch["ndcg"] for epoch in epochs]
        best = figures.index(max(figures))
        assert len(figures) == best + 1 + 2 < 60
    assert summary["valid_ndcg"] == pytest.approx(max(figures))


def test_after_a_loss_that_is_no_number_training_goes_on_from_the_checkpoint_at_a_lower_rate(tmp_path, capfd):
    write_world(tmp_path)
    often = TWO.model_copy(update={"checkpoint_every_s": 1e-6, "resume": "other_pace"})
    arguments = [sys.executable, "-c", RUN, str(tmp_path), json.dumps(often.model_dump(mode="json"))]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoints = tmp_path / "model.checkpoint" / "ranker"
    wait_for_mid_epoch(checkpoints, process)
    started = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: not any(child.is_running() for child in started), "the processes to end")
    kept = sorted(path.name for path in checkpoints.glob("[0-9]*"))

    def at(rate: float) -> TrainingSettings:
        ranker = TWO.ranker.model_copy(update={"table_learning_rate": rate})
        return often.model_copy(update={"ranker": ranker, "checkpoint_every_s": 0})

    said = (
        r"ranker's loss is (nan|inf) in epoch \d, step \d+, .* and go on from it with training.checkpoint: "
        r".*model.checkpoint and training.resume: other_pace$"
    )
    with pytest.raises(TrainingError, match=said):
        train(tmp_path, at(1e30))
    assert set(kept) <= {path.name for path in checkpoints.glob("[0-9]*")}
    capfd.readouterr()
    summary = train(tmp_path, at(TWO.ranker.table_learning_rate / 2))
    printed = capfd.readouterr().out
    assert re.search(r"ranker: checkpoint \S+ was made at another pace, and is gone on from", printed)
    assert re.search(r"ranker: going on after epoch \d+( and \d+ steps)? of an earlier run", printed)
    assert summary["valid_ndcg"] > 0.3 and not checkpoints.exists()


def test_gradients_beyond_half_precision_epoch_long_are_refused(tmp_path):
    write_world(tmp_path)
    half = OptimizerSettings(precision="fp16")
    steep = SMALL.ranker.model_copy(update={"rating_weight": 1e9, "optimizer": half})
    said = r"ranker's gradients left the range of fp16 in \d+ steps of epoch 1, .*precision: bf16 or fp32"
    with pytest.raises(TrainingError, match=said):
        train(tmp_path, SMALL.model_copy(update={"ranker": steep}))
    assert not (tmp_path / "model").exists()


def test_more_processes_than_a_batch_has_events_are_refused(tmp_path):
    write_world(tmp_path)
    alone = SMALL.retriever.model_copy(update={"batch_size": 1})
    said = (
        r"a batch of 1 training events leaves some of 2 processes without one; lower training\.num_processes"
    )
    with pytest.raises(TrainingError, match=said):
        train(tmp_path, TWO.model_copy(update={"retriever": alone}))


def test_weights_that_are_no_numbers_are_never_a_checkpoint(tmp_path, capfd):
    write_world(tmp_path)
    broken = SMALL.retriever.model_copy(update={"table_learning_rate": 1e39})  # beyond float32
    settings = TWO.model_copy(update={"retriever": broken, "checkpoint_every_s": 1e-6})
    said = r"retriever's weights \S+ hold what is no number after epoch 1, step 1; the last checkpoint"
    with pytest.raises(TrainingError, match=said):
        train(tmp_path, settings)
    assert "restart" not in capfd.readouterr().out
    assert not list((tmp_path / "model.checkpoint").rglob("checkpoint.json"))


@pytest.mark.parametrize(
    ("num_processes", "optimizer"),
    [
        (1, {"dense": "adagrad", "schedule": "cosine", "warmup_steps": 5, "clip_norm": 1.0}),
        (1, {"dense": "adam", "schedule": "step", "step_epochs": 2, "precision": "bf16"}),
        (2, {"tables": "rowwise_adagrad", "accumulate": 2, "clip_norm": 0.5}),
        (2, {"precision": "fp16", "clip_norm": 1.0}),
    ],
)
def test_other_optimizers_learn_the_taste_too(tmp_path, num_processes, optimizer):
    write_world(tmp_path)
    parts = {
        part: getattr(SMALL, part).model_copy(update={"optimizer": OptimizerSettings.parse(optimizer)})
        for part in ("retriever", "ranker")
    }
    summary = train(tmp_path, SMALL.model_copy(update={**parts, "num_processes": num_processes}))
    assert summary["valid_ndcg"] > 0.3 and summary["valid_auc"] > 0.8
    curves = read_json(tmp_path / "model" / "curves.json")
    for epochs in curves.values():
        assert epochs[-1]["loss"] < epochs[0]["loss"]
        falls = epochs[-1]["learning_rate"] < epochs[0]["learning_rate"]
        assert falls == ("schedule" in optimizer)


def test_however_tables_are_sharded_the_weights_are_the_same(tmp_path):
    write_world(tmp_path)
    tables = ("user", "item", "history", "category")
    for sharding in ("row_wise", "table_wise", "column_wise", "grid"):
        by_hand = TWO.model_copy(update={"sharding": dict.fromkeys(tables, sharding)})
        train(tmp_path, by_hand, sharding)
    ours = load_file(tmp_path / "row_wise" / "model.safetensors")
    for sharding in ("table_wise", "column_wise", "grid"):
        theirs = load_file(tmp_path / sharding / "model.safetensors")
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-4) for name in ours)


@pytest.mark.parametrize("exchange", ["fp16", "int8"])
def test_fewer_bits_between_processes_learn_the_taste_too(tmp_path, whole, exchange):
    write_world(tmp_path)
    summary = train(tmp_path, TWO.model_copy(update={"exchange": exchange}))
    assert summary["valid_ndcg"] > 0.3 and summary["valid_auc"] > 0.8
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "model", whole))
    differences = {name: float((ours[name] - theirs[name]).abs().max()) for name in ours}
    assert max(differences.values()) > 0, "nothing travelled in another precision"


def test_shares_by_measured_speed_learn_the_taste_too(tmp_path, capfd):
    write_world(tmp_path)
    summary = train(tmp_path, TWO.model_copy(update={"balance": "measured"}))
    assert summary["valid_ndcg"] > 0.3 and summary["valid_auc"] > 0.8
    said = re.findall(
        r"ranker: of 1,000 events processes 0 to 1 take \[(\d+), (\d+)\]", capfd.readouterr().out
    )
    assert len(said) == SMALL.ranker.epochs and all(int(a) + int(b) == 1000 for a, b in said)


def test_what_cannot_fit_is_refused_before_it_starts(tmp_path):
    write_world(tmp_path)
    spec = tmp_path / "features" / "spec.json"
    spec.write_text(json.dumps({**read_json(spec), "num_users": 10**10}))
    said = r"does not fit: the host needs .* GiB are there; .* lower training"
    with pytest.raises(TrainingError, match=said):
        train(tmp_path, SMALL)
    assert not (tmp_path / "model").exists()


def test_what_is_watched_can_be_looked_at(tmp_path, capfd):
    write_world(tmp_path)
    watched = {"tensorboard": str(tmp_path / "events"), "profile": str(tmp_path / "traces")}
    train(tmp_path, TWO.model_copy(update=watched))
    curves = read_json(tmp_path / "model" / "curves.json")
    printed = capfd.readouterr().out
    for model in ("retriever", "ranker"):
        said = (
            rf"{model}: epoch 1/\d .* events/s; data \d+%, embedding \d+%, dense \d+%, communication \d+%\)"
        )
        assert re.search(said, printed)
        events = EventAccumulator(str(tmp_path / "events" / model)).Reload()
        points = events.Scalars("epoch/loss")
        assert [point.step for point in points] == [curve["epoch"] for curve in curves[model]]
        assert [point.value for point in points] == pytest.approx([curve["loss"] for curve in curves[model]])
        for curve in curves[model]:
            assert list(curve["phases"]) == ["data", "embedding", "dense", "communication"]
            assert curve["seconds"] > sum(curve["phases"].values()) > 0.5 * curve["seconds"]
        for phase in curves[model][0]["phases"]:
            points = [point.value for point in events.Scalars(f"seconds/{phase}")]
            assert points == pytest.approx([curve["phases"][phase] for curve in curves[model]])
            assert all(seconds > 0 for seconds in points)
        named = {
            event.get("name") for event in read_json(tmp_path / "traces" / f"{model}.json")["traceEvents"]
        }
        assert {"forward", "backward", "update"} <= named
    steps = EventAccumulator(str(tmp_path / "events" / "ranker")).Reload().Scalars("step/loss")
    assert [point.step for point in steps][:2] == [10, 28]  # 18 steps an epoch
