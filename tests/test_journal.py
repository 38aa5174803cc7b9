"""The journal tells what ran, for how long, and why it failed."""

import errno
import os
from pathlib import Path

import pytest

from leanrec.errors import DataError, HostError
from leanrec.journal import JOURNAL_VARIABLE, read_journal, read_lines, report_progress, step


@step("double")
def double(number: int, *, output: Path) -> int:
    report_progress("double", 1, 2, "half way")
    if number < 0:
        raise DataError("below zero")
    if number == 99:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out.parquet")
    return number * 2


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(JOURNAL_VARIABLE, str(tmp_path / "journal.jsonl"))
    return tmp_path / "journal.jsonl"


def test_a_step_is_recorded_with_its_paths_and_seconds(journal: Path, tmp_path: Path) -> None:
    assert double(2, output=tmp_path / "out") == 4
    (record,) = read_journal(journal)
    assert (record.step, record.paths, record.error) == ("double", {"output": str(tmp_path / "out")}, None)
    assert record.seconds is not None
    assert [line["kind"] for line in read_lines(journal)] == ["started", "progress", "finished"]


def test_a_failed_step_is_recorded_with_its_sentence(journal: Path) -> None:
    with pytest.raises(DataError):
        double(-1, output=Path("x"))
    (record,) = read_journal(journal)
    assert record.error == {"type": "DataError", "message": "below zero", "ours": True}


def test_a_full_disk_is_an_error_of_ours_in_every_step(journal: Path) -> None:
    with pytest.raises(HostError, match=r"step double: the disk is full .* out\.parquet; free some space"):
        double(99, output=Path("x"))
    assert read_journal(journal)[0].error["ours"]


def test_a_step_that_was_killed_has_no_seconds(journal: Path) -> None:
    double(1, output=Path("x"))
    started = journal.read_text().splitlines(keepends=True)[0]
    journal.write_text(started + '{"kind": "fini')
    (record,) = read_journal(journal)
    assert record.seconds is None


def test_without_the_variable_nothing_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(JOURNAL_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    assert double(3, output=Path("x")) == 6
    assert list(tmp_path.iterdir()) == []
