"""What a manifest may name."""

from __future__ import annotations

import pytest

from leanrec.release.repository import names_files, path_of_file

FACTS = {"sha256": "0" * 64, "bytes": 1}


@pytest.mark.parametrize(
    ("name", "is_named"),
    [
        ("recommender/model.onnx", True),
        ("recommender/release/vocabulary/items.json", True),
        ("ranker/..model.onnx", True),
        ("ranker/../../release.json", False),
        ("ranker/./model.onnx", False),
        ("ranker//etc/passwd", False),
        ("/etc/passwd", False),
        ("../ranker/model.onnx", False),
        ("ranker", False),
        ("ranker/model\0.onnx", False),
        ("ranker/", False),
        ("elsewhere/model.onnx", False),
    ],
)
def test_a_file_lies_in_a_folder_of_its_version(name: str, is_named: bool) -> None:
    assert names_files({"files": {"recommender/model.onnx": FACTS, name: FACTS}}) is is_named


@pytest.mark.parametrize("manifest", [None, [], {}, {"files": []}, {"files": {"ranker/model.onnx": {}}}])
def test_what_names_no_files_with_their_digests_is_none(manifest: object) -> None:
    assert not names_files(manifest)


def test_a_file_lies_under_its_model_and_version() -> None:
    assert path_of_file("recommender/release/spec.json", 7) == "recommender/7/release/spec.json"
