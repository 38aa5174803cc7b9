"""Checkpoints: what was saved comes back, and what is broken is named and passed over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_disk import mounted_disk

from leanrec.errors import TrainingError
from leanrec.training.checkpoint import MANIFEST_FILE, Checkpoints, Progress

pytestmark = pytest.mark.usefixtures("one_process")
WEIGHTS = "shard-00001-model-00001-of-00001.safetensors"
"""What process 0 wrote of its first group of tensors."""


class World:
    """Two checkpoints in a folder, and what was logged of them."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.log: list[str] = []
        self.checkpoints = self.of("these settings", keep)
        for epochs in (1, 2):
            self.save(epochs)

    def of(self, identity: str, keep: int = 2) -> Checkpoints:
        return Checkpoints(folder=self.folder, identity=identity, keep=keep, log=self.log.append)

    def save(self, epochs: int, rows: int = 3) -> None:
        weights = {
            "table": torch.full((rows, 2), float(epochs)),
            "transposed": torch.eye(3)[:, :2].T,
            "step": torch.tensor(7.0),
            "bytes": torch.arange(5, dtype=torch.uint8),
        }
        held = {f"{group}/{name}": value for group in ("weights", "best") for name, value in weights.items()}
        self.checkpoints.save(Progress(epochs_done=epochs, curves=[{"epoch": epochs, "loss": 0.5}]), held)

    def file(self, number: int, name: str) -> Path:
        return self.folder / f"{number:06d}" / name


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "retriever")


def test_what_was_saved_comes_back(world: World) -> None:
    assert world.checkpoints.newest() == 2
    into = torch.zeros(3, 2)
    progress, held = world.checkpoints.load(2, {"weights/table": into, "weights/never saved": torch.ones(1)})
    assert progress == Progress(epochs_done=2, curves=[{"epoch": 2, "loss": 0.5}])
    assert progress.best_figure == float("-inf")
    assert sorted(held) == [
        f"{group}/{name}"
        for group in ("best", "weights")
        for name in ("bytes", "step", "table", "transposed")
    ]
    assert torch.equal(into, torch.full((3, 2), 2.0))
    for group in ("weights", "best"):
        assert torch.equal(held[f"{group}/table"], torch.full((3, 2), 2.0))
        assert torch.equal(held[f"{group}/transposed"], torch.eye(3)[:, :2].T)
        assert torch.equal(held[f"{group}/step"], torch.tensor(7.0))
        assert torch.equal(held[f"{group}/bytes"], torch.arange(5, dtype=torch.uint8))
    assert world.log == []


def test_the_newest_stay_and_nothing_else(world: World) -> None:
    for epochs in (3, 4):
        world.save(epochs)
    assert sorted(path.name for path in world.folder.iterdir()) == ["000003", "000004"]
    assert world.of("these settings", keep=1).newest() == 4


def test_one_made_at_another_pace_is_gone_on_from_where_that_is_asked_for(tmp_path: Path) -> None:
    log: list[str] = []

    def at(pace: str, model: str = "model", **options: bool) -> Checkpoints:
        names = {"identity": f"{model} at {pace}", "at_any_pace": model}
        return Checkpoints(folder=tmp_path, keep=2, log=log.append, **names, **options)

    at("rate 2").save(Progress(epochs_done=1), {"weights/table": torch.ones(2)})
    assert at("rate 1").newest() is None
    assert "with training.resume: other_pace it would go on from there" in log.pop()
    assert at("rate 1", takes_other_pace=True).newest() == 1
    assert "was made at another pace" in log.pop()
    assert at("rate 1", "another model", takes_other_pace=True).newest() is None
    assert "is of other settings or data" in log.pop()
    assert at("rate 2").newest() == 1 and log == []


def test_without_a_folder_there_is_none(tmp_path: Path) -> None:
    checkpoints = Checkpoints(folder=tmp_path / "none", identity="", keep=2, log=lambda _: None)
    assert checkpoints.newest() is None


def flip_a_bit(world: World) -> None:
    state = bytearray(world.file(2, WEIGHTS).read_bytes())
    state[-1] ^= 1
    world.file(2, WEIGHTS).write_bytes(state)


def without_files(world: World) -> None:
    file = world.file(2, MANIFEST_FILE)
    file.write_text(json.dumps({**json.loads(file.read_text()), "files": {}}))


def cut_off(name: str):
    def spoil(world: World) -> None:
        file = world.file(2, name)
        file.write_bytes(file.read_bytes()[:40])

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (flip_a_bit, f"{WEIGHTS} is not what was written"),
        (cut_off(WEIGHTS), f"{WEIGHTS} is not what was written"),
        (lambda world: world.file(2, WEIGHTS).unlink(), f"{WEIGHTS} is missing"),
        (cut_off(MANIFEST_FILE), "checkpoint.json cannot be read"),
        (lambda world: world.file(2, MANIFEST_FILE).unlink(), "checkpoint.json cannot be read"),
        (lambda world: world.file(2, MANIFEST_FILE).write_text("[]"), "checkpoint.json cannot be read"),
        (without_files, "checkpoint.json names no files"),
    ],
)
def test_a_broken_one_is_named_and_the_one_before_is_taken_up(world: World, spoil, said: str) -> None:
    spoil(world)
    assert world.checkpoints.newest() == 1
    (line,) = world.log
    assert "000002 is not taken up" in line and said in line
    world.save(3)
    assert world.checkpoints.newest() == 3


def test_where_all_are_broken_training_begins_anew(world: World) -> None:
    for number in (1, 2):
        world.file(number, WEIGHTS).write_bytes(b"")
    assert world.checkpoints.newest() is None
    assert len(world.log) == 2


def test_one_of_other_settings_is_not_taken_up_and_that_is_said(world: World) -> None:
    assert world.of("other settings").newest() is None
    assert "of other settings or data, so training begins anew" in world.log[0]


def test_one_of_another_schema_stops_with_the_way_out(world: World) -> None:
    file = world.file(2, MANIFEST_FILE)
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema": 99}))
    with pytest.raises(
        TrainingError, match=r"000002: .* schema 99, this code reads \d+; .* remove .*retriev"
    ):
        world.checkpoints.newest()


def test_a_process_that_does_not_see_the_folder_says_so(world: World) -> None:
    with pytest.raises(TrainingError, match=r"every process must see the folder training\.checkpoint"):
        world.checkpoints.load(7, {})


def test_a_full_disk_keeps_the_last_good_one(tmp_path: Path) -> None:
    with mounted_disk(tmp_path, "1m") as disk:
        world = World(disk / "retriever")
        world.save(3, rows=200_000)
        (line,) = world.log
        assert "000003 could not be written" in line and "000002 stays, and training goes on" in line
        assert sorted(path.name for path in world.folder.iterdir()) == ["000001", "000002"]
        assert world.checkpoints.newest() == 2
        world.save(3)
        assert world.checkpoints.newest() == 3
