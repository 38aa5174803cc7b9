"""The versions that the benchmark of a release makes up can be published, promoted and rolled back."""

from pathlib import Path

import pytest
from gateway_world import publish
from tiny_release import user_row

from benchmarks.release import FACTOR, _publish, first_score
from leanrec.release.integrity import verify
from leanrec.release.promote import rollback
from leanrec.release.repository import ModelRepository


def test_a_made_up_version_is_whole_and_its_scores_tell_it_from_the_other(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    served, copy = ModelRepository(tmp_path / "models"), ModelRepository(tmp_path / "copy")
    for factor in (1.0, FACTOR):
        _publish(copy, served, 1, factor=factor)
    assert [verify(copy.path, version) for version in (1, 2)] == [[], []]
    graphs = [copy.version_folder("recommender", version) / "model.onnx" for version in (1, 2)]
    first, second = (first_score(graph, user_row()) for graph in graphs)
    assert second == pytest.approx(first * FACTOR)
    assert rollback(copy.path) == 1
