from pathlib import Path

import pytest
from tiny_release import write_artifacts, write_golden, write_graphs

from leanrec.config import ReleaseSettings
from leanrec.errors import ExportError
from leanrec.files import read_json
from leanrec.release.parity import check_parity

pytestmark = pytest.mark.integration


def test_parity_passes_what_agrees_and_stops_what_does_not(tmp_path: Path) -> None:
    """The chosen graphs compute 1.004 times the trainer's scores, then 1.3 times."""
    settings = ReleaseSettings(repository=str(tmp_path / "unused"))
    graphs = write_graphs(tmp_path / "graphs")
    write_golden(graphs, "fp32", 1e-5)
    figures = {}
    for name, factor in (("good", 1.004), ("bad", 1.3)):
        compressed = write_artifacts(tmp_path / name, factor=factor)["compressed"]
        write_golden(compressed / "chosen", "int8", 1e-5)
        passed = check_parity(settings, graphs=graphs, compressed=compressed, output=tmp_path / name / "out")
        assert passed is (name == "good")
        report = read_json(tmp_path / name / "out" / "parity.json")
        assert report["num_golden"] == 3
        figures[name] = {(g["recipe"], g["model"]): g for g in report["graphs"]}
    good = figures["good"]
    assert set(good) == {(r, m) for r in ("fp32", "int8") for m in ("recommender", "ranker")}
    assert all(graph["server_difference"] <= 1e-6 for graph in good.values())
    assert good["fp32", "recommender"]["max_score_difference"] <= 1e-6
    assert good["int8", "recommender"]["max_score_difference"] == pytest.approx(0.004 * 1.375, rel=0.02)
    assert good["int8", "recommender"]["score_ratio"] == pytest.approx(1.004, rel=1e-3)
    assert good["fp32", "recommender"]["same_top_10"] == good["int8", "recommender"]["shared_top_10"] == 1.0
    assert good["fp32", "ranker"]["same_top_10"] is None
    missed = [c for c in read_json(tmp_path / "bad" / "out" / "gate.json")["checks"] if not c["passed"]]
    assert {check["figure"] for check in missed} == {
        "recommender (int8) score ratio, trainer and Triton",
        "ranker (int8) score ratio, trainer and Triton",
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
