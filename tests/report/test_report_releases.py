"""The releases in the report: what they reached offline, what people did with them, and why they moved."""

import xml.etree.ElementTree as ElementTree
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from run_artifacts import evaluation, make_facts

from leanrec.data.event_log import FEEDBACK
from leanrec.evaluation.online import write_online
from leanrec.files import read_json, write_json
from leanrec.release.state import published, published_as_candidate, staged
from leanrec.report import charts
from leanrec.report.build import build_report
from leanrec.report.inputs import ReportInputs

AT = "2026-05-01T12:00:00+00:00"
NDCG = {1: 0.11, 2: 0.12, 3: 0.13}


def make_repository(folder: Path) -> Path:
    """Releases 1 and 2, and 3 as a canary at 10 %."""
    state = published(None, 1, keep=5, at=AT)
    state = published(state, 2, keep=5, at=AT)
    state = published_as_candidate(state, 3, keep=5, at=AT, salt="a secret grain")
    state = staged(state, "canary", percent=10, at=AT, reason="the shadow's answers agree")
    write_json(folder / "release.json", state.to_json())
    for version, value in NDCG.items():
        release = folder / "recommender" / str(version) / "release"
        found = evaluation()
        found["intervals"]["ndcg@10"]["chain"] = {"value": value, "low": value - 0.01, "high": value + 0.01}
        write_json(release / "evaluation.json", found)
        write_json(release / "manifest.json", {"recipe": "int8", "published_at": AT, "bytes": 1_500_000})
    return folder


def log_of(release: int, num_impressions: int, num_clicks: int) -> pa.Table:
    """Impressions of one item an answer, the first ones clicked."""
    now = datetime(2026, 5, 2, tzinfo=UTC)
    rows = [
        {
            "event_id": f"{kind}{n}", "user_id": f"u{n % 7}", "item_id": "i", "type": kind, "rating": None,
            "timestamp": now, "received_at": now, "request_id": f"{release}.{n}", "release": release,
        }
        for kind, number in (("impression", num_impressions), ("click", num_clicks))
        for n in range(number)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=FEEDBACK)


def report_on(repository: Path, output: Path) -> tuple[str, dict]:
    inputs = ReportInputs(run=make_facts(), settings={"release": {"repository": str(repository)}})
    page = build_report(inputs, output)
    return page.read_text(encoding="utf-8"), read_json(output / "report.json")["releases"]


def test_offline_figures_stand_beside_what_people_did(tmp_path):
    repository = make_repository(tmp_path / "models")
    write_online(log_of(2, num_impressions=40, num_clicks=10), repository)
    page, releases = report_on(repository, tmp_path / "report")
    roles = [(r["version"], r["role"]) for r in releases["releases"]]
    assert roles == [(3, "canary at 10 %"), (2, "stable"), (1, "served")]
    assert [r["offline"]["ndcg@10"]["value"] for r in releases["releases"]] == [0.13, 0.12, 0.11]
    assert [r["online"] and r["online"]["click_through"] for r in releases["releases"]] == [None, 0.25, None]
    for words in ("3, canary at 10 %", "25.0 %", "the shadow&#39;s answers agree", "Online: click-through"):
        assert words in page


def test_the_salt_that_chooses_users_stays_out_of_the_report(tmp_path):
    page, releases = report_on(make_repository(tmp_path / "models"), tmp_path / "report")
    assert releases["rollout"]["version"] == 3
    assert "a secret grain" not in page
    assert "a secret grain" not in (tmp_path / "report" / "report.json").read_text()


def test_a_repository_that_nobody_asked_yet_says_so(tmp_path):
    page, releases = report_on(make_repository(tmp_path / "models"), tmp_path / "report")
    assert not releases["measured_online"]
    assert "Nothing was measured online yet" in page
    assert "Click-through" not in page


@pytest.mark.parametrize("damage", ["missing", "empty", "torn"])
def test_a_repository_that_cannot_be_read_leaves_its_section_out(tmp_path, damage):
    repository = tmp_path / "models"
    repository.mkdir()
    if damage != "missing":
        (repository / "release.json").write_text("{}" if damage == "empty" else '{"stable": 1, "ver')
    page, releases = report_on(repository, tmp_path / "report")
    assert releases is None
    assert "Releases, before and since" not in page


def test_every_grid_line_of_the_histogram_has_its_count():
    counts = [12_000, 300, 7, 0, 1]
    histogram = {"edges": [0.0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4], "counts": counts}
    drawing = ElementTree.fromstring(str(charts.draw_histogram(histogram)))
    lines = [float(line.get("y1")) for line in drawing.iter("line") if line.get("class") == "grid"]
    labels = {
        text.text: float(text.get("y")) - 4
        for text in drawing.iter("text")
        if text.get("text-anchor") == "end"
    }
    assert list(labels) == ["1", "10", "100", "1,000", "10,000"]
    assert lines == pytest.approx(list(labels.values()), abs=0.11)
