"""What training processes leave for who waits for them, and what the machine gives to them."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from leanrec.files import write_json
from leanrec.training.job import Word, last_word
from leanrec.training.memory import available_memory


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
