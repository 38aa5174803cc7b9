"""A file or folder is written whole or not at all."""

from pathlib import Path

import pytest

from leanrec.files import atomic_directory, atomic_file, read_json, sha256_of, size_in_bytes, write_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a.txt") as beside:
        beside.write_text("new")
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "a.txt") as beside:
        beside.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with atomic_directory(tmp_path / "d") as beside:
            (beside / content).write_text(content)
    assert names(tmp_path / "d") == ["new"]
    assert names(tmp_path) == ["d"]


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "d") as beside:
        (beside / "old").touch()
    with pytest.raises(RuntimeError), atomic_directory(tmp_path / "d") as beside:
        (beside / "half").touch()
        raise RuntimeError
    assert names(tmp_path / "d") == ["old"]
    assert names(tmp_path) == ["d"]


def test_json_refuses_nan_and_keeps_what_was_there(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert read_json(tmp_path / "a.json") == {"x": 1}


def test_digest_and_size(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a").startswith("ba7816bf")
    assert size_in_bytes(tmp_path / "a") == size_in_bytes(tmp_path) == 3
