from pathlib import Path

import pytest
from tiny_release import write_artifacts, write_golden, write_graphs

from leanrec.config import ReleaseSettings
from leanrec.errors import ExportError
from leanrec.files import read_json
from leanrec.release.parity import check_parity

pytestmark = pytest.mark.integration


def test_parity_passes_what_agrees_and_stops_what_does_not(tmp_path: Path) -> None:
    """The chosen graphs compute 1.004 times the trainer's scores, and promise 0.01, then 0.001."""
    settings = ReleaseSettings(repository=str(tmp_path / "unused"))
    graphs = write_graphs(tmp_path / "graphs")
    write_golden(graphs, "fp32", 1e-5)
    compressed = write_artifacts(tmp_path, factor=1.004)["compressed"]
    write_golden(compressed / "chosen", "int8", 0.01)

    assert check_parity(settings, graphs=graphs, compressed=compressed, output=tmp_path / "good")
    report = read_json(tmp_path / "good" / "parity.json")
    assert report["num_golden"] == 3
    figures = {(g["recipe"], g["model"]): g for g in report["graphs"]}
    assert set(figures) == {(r, m) for r in ("fp32", "int8") for m in ("recommender", "ranker")}
    assert figures["fp32", "recommender"]["max_score_difference"] <= 1e-6
    assert figures["int8", "recommender"]["max_score_difference"] == pytest.approx(0.004 * 1.375, rel=0.02)
    assert figures["fp32", "recommender"]["same_top_10"] == 1.0
    assert figures["fp32", "ranker"]["same_top_10"] is None

    write_golden(compressed / "chosen", "int8", 0.001)
    assert not check_parity(settings, graphs=graphs, compressed=compressed, output=tmp_path / "bad")
    missed = [c for c in read_json(tmp_path / "bad" / "gate.json")["checks"] if not c["passed"]]
    assert {check["figure"] for check in missed} == {
        "recommender (int8) |trainer - Triton|",
        "ranker (int8) |trainer - Triton|",
    }
    assert not (tmp_path / "unused").exists()


def test_folders_without_golden_requests_are_refused(tmp_path: Path) -> None:
    graphs = write_graphs(tmp_path / "graphs")
    compressed = write_artifacts(tmp_path)["compressed"]
    assert not (graphs / "golden.json").exists()
    with pytest.raises(ExportError, match="no golden requests in it"):
        check_parity(
            ReleaseSettings(repository="unused"),
            graphs=graphs,
            compressed=compressed,
            output=tmp_path / "out",
        )
