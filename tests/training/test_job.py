"""What training processes leave for who waits for them, and what the machine gives to them."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from leanrec.config import RankerSettings, TrainingSettings
from leanrec.config.train_job import TrainJobSettings
from leanrec.errors import ConfigError
from leanrec.files import write_json
from leanrec.training.checkpoint import Progress
from leanrec.training.course import is_finished
from leanrec.training.job import Word, last_word
from leanrec.training.memory import available_memory
from leanrec.training.train import train_models


def test_who_found_the_fault_is_heard_before_who_lost_him(tmp_path: Path) -> None:
    assert last_word(tmp_path) is None
    write_json(tmp_path / "0-error.json", {"message": "connection closed", "final": False})
    assert last_word(tmp_path) == Word("connection closed", final=False)
    write_json(tmp_path / "3-error.json", {"message": "the loss is nan", "final": True})
    assert last_word(tmp_path) == Word("the loss is nan", final=True)


@pytest.mark.parametrize(
    ("limit", "used", "found"),
    [("1000", "400", 600), ("400", "1000", 0), (str(2**62), "0", None), ("max", "400", None)],
)
def test_a_containers_limit_is_seen(tmp_path: Path, limit: str, used: str, found: int | None) -> None:
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text(f"{used}\n")
    if found is None:  # what the machine has
        assert 0 < available_memory(tmp_path) <= psutil.virtual_memory().total
    else:
        assert available_memory(tmp_path) == found


def test_where_there_is_no_container_the_machine_counts(tmp_path: Path) -> None:
    assert 0 < available_memory(tmp_path) <= psutil.virtual_memory().total


def test_a_pod_with_other_gpus_than_processes_is_refused_before_anything_is_laid_out(tmp_path: Path) -> None:
    settings = TrainingSettings(train_job=TrainJobSettings(num_gpus=8, folder=str(tmp_path / "shared")))
    with pytest.raises(ConfigError, match="num_gpus 8 and num_processes_per_node 1 differ"):
        train_models(settings, features=tmp_path, training_set=tmp_path / "none", output=tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("epochs", "patience", "finished"),
    [(3, 3, True), (2, 3, True), (5, 3, False), (5, 1, True), (5, 2, False)],
)
def test_whether_training_is_finished_is_a_matter_of_the_settings_of_now(
    epochs: int, patience: int, finished: bool
) -> None:
    settings = RankerSettings(epochs=epochs, patience=patience)
    assert is_finished(Progress(epochs_done=3, best_epoch=1), settings) is finished
    assert not is_finished(Progress(), settings)
