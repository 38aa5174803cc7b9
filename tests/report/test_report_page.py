"""The page holds the run's figures, needs nothing from elsewhere, and exists for a failed run too."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from run_artifacts import make_facts, make_inputs, starts

from leanrec.errors import LeanRecError
from leanrec.files import read_json, write_json
from leanrec.report.build import build_report, write_latest
from leanrec.report.inputs import ReportInputs


class Page(HTMLParser):
    """Checks that tags nest, and gathers words and addresses."""

    VOID = frozenset({"meta", "link", "br", "img", "hr"})
    ADDRESSES = frozenset({"href", "src", "srcset", "action"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.words = ""
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [
            value for name, value in attrs if name in ("href", "src", "srcset", "action") and value
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


@pytest.fixture(scope="module")
def whole(whole_run, tmp_path_factory):
    output = tmp_path_factory.mktemp("report")
    path = build_report(whole_run, output)
    return path.read_text(encoding="utf-8"), read_json(output / "report.json")


def test_the_headline_holds_the_ten_figures(whole):
    text, figures = whole
    tiles = {tile["name"]: tile["text"] for tile in figures["headline"]}
    assert tiles == {
        "NDCG@10": "0.131",
        "against item-KNN": "+10 %",
        "against popularity": "+70 %",
        "AUC": "0.771",
        "calibration error": "3.1 %",
        "served bytes": "3.3 MB",
        "latency p50": "4.1 ms",
        "parity": "3.1 × 10⁻⁷",
        "release": "v7",
        "duration": "2 min 8 s",
    }
    words = Page(text).words
    assert all(shown in words for shown in tiles.values())


def test_report_json_holds_exact_values_and_every_steps_seconds(whole):
    _, figures = whole
    assert figures["evaluation"]["ranking"]["auc"] == 0.7712
    assert {step["step"]: step["seconds"] for step in figures["steps"]}["train_models"] == 58.0
    assert all(step["seconds"] is not None for step in figures["steps"])
    seconds = figures["seconds"]
    assert seconds["steps"] + seconds["orchestration"] == pytest.approx(seconds["total"]) == 128.4


def test_the_page_refers_to_nothing_outside_itself(whole):
    text, _ = whole
    page = Page(text)
    assert [address for address in page.addresses if not address.startswith(("#", "data:"))] == []
    assert not {"script", "iframe", "object", "embed", "img"} & set(page.tags)
    assert not re.search(r"@import|url\(|https?://", text)


def test_every_plot_says_in_words_what_it_shows(whole):
    drawings = re.findall(r"<svg[^>]*>", whole[0])
    assert len(drawings) >= 8
    assert all(
        'role="img"' in drawing and re.search(r'aria-label="[^"]{10,}"', drawing) for drawing in drawings
    )


def test_recommendations_show_titles_reasons_and_the_unknown_user(whole):
    words = Page(whole[0]).words
    assert "because of Pulp Fiction" in words
    assert "unknown, so what is popular" in words


def test_titles_are_escaped(tmp_path):
    inputs = make_inputs(tmp_path)
    smoke = read_json(inputs.smoke)
    smoke["users"][0]["recommendations"][0]["title"] = "<script>alert(1)</script>"
    write_json(inputs.smoke, smoke)
    text = build_report(inputs, tmp_path / "report").read_text(encoding="utf-8")
    assert "<script>" not in text and "&lt;script&gt;alert(1)" in text


def test_a_failed_run_says_on_top_what_stopped_it_and_which_rows(failed_run, tmp_path):
    text = build_report(failed_run, tmp_path).read_text(encoding="utf-8")
    top = Page(text.split("<main>")[0] + "</body></html>").words
    assert "The run stopped" in top
    assert "events.rating not null is 3, bound 0 rows (rows 17, 4021, 99998)" in top
    figures = read_json(tmp_path / "report.json")
    assert figures["run"]["succeeded"] is False
    assert [step["status"] for step in figures["steps"]][:3] == ["done", "failed", "not run"]
    words = Page(text).words
    assert "3 of 100,000" in words and "row 4,021 (event 4021): null" in words


def test_a_run_that_has_made_nothing_still_gets_a_report(tmp_path):
    inputs = ReportInputs(run=make_facts(failure="configs/x.yaml: no such file"))
    Page(build_report(inputs, tmp_path).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "missing", ["validation", "model", "evaluation", "compressed", "parity", "release", "smoke", "events"]
)
def test_the_report_leaves_out_what_is_missing(whole_run, tmp_path, missing):
    Page(build_report(replace(whole_run, **{missing: None}), tmp_path).read_text(encoding="utf-8"))


def test_without_a_journal_every_step_is_done_and_nothing_is_said_of_time(whole_run, tmp_path):
    inputs = replace(whole_run, journal=(), run=make_facts(total_seconds=0.0))
    text = build_report(inputs, tmp_path).read_text(encoding="utf-8")
    figures = read_json(tmp_path / "report.json")
    assert {(step["status"], step["seconds"]) for step in figures["steps"]} == {("done", None)}
    assert "duration" not in {tile["name"] for tile in figures["headline"]}
    words = Page(text).words
    assert 'id="flow"' in text and "orchestration" not in words and "not run" not in words


def test_titles_that_hold_commas_are_set_apart_by_dots(tmp_path):
    inputs = make_inputs(tmp_path)
    smoke = read_json(inputs.smoke)
    smoke["users"][0]["recommendations"][0]["because"] = ["Graduate, The", "Fargo"]
    smoke["users"][0]["liked"] = [{"title": "Sting, The", "rating": 5.0}, {"title": "Alien", "rating": 4.0}]
    smoke["server"] = {"version": 2, "models": {"ranker": [1, 2], "recommender": [1, 2]}}
    write_json(inputs.smoke, smoke)
    words = Page(build_report(inputs, tmp_path / "report").read_text(encoding="utf-8")).words
    assert "because of Graduate, The · Fargo" in words and "Sting, The (5) · Alien (4)" in words
    assert "Release 2 answered; Triton had loaded ranker 1 and 2, recommender 1 and 2." in words


def test_an_artifact_cut_off_midway_is_named_and_left_out(tmp_path):
    inputs = make_inputs(tmp_path)
    (inputs.compressed / "front.json").write_text('{"chosen": "int8", "cand', encoding="utf-8")
    inputs.events.write_bytes(b"PAR1")
    text = build_report(inputs, tmp_path / "report").read_text(encoding="utf-8")
    assert "cannot be read: events, compressed/front.json" in Page(text).words


def test_training_is_told_with_its_phases_where_they_are_known(tmp_path):
    words = Page(build_report(make_inputs(tmp_path), tmp_path / "report").read_text(encoding="utf-8")).words
    assert "Retriever: 20 epochs in 38.0 s, 41,000 samples a second.\n" in words
    phases = "data 2.4 s, embedding 5.6 s, dense 4.8 s, communication 800 ms; learning rate at the end 0.002."
    assert f"41,000 samples a second. Time by phase: {phases}" in words


def test_nan_in_an_artifact_becomes_a_gap(tmp_path):
    inputs = make_inputs(tmp_path)
    curves = read_json(inputs.model / "curves.json")
    curves["ranker"][3]["loss"] = float("nan")
    (inputs.model / "curves.json").write_text(json.dumps(curves), encoding="utf-8")
    build_report(inputs, tmp_path / "report")
    assert read_json(tmp_path / "report" / "report.json")["curves"]["ranker"][3]["loss"] is None


def test_a_model_that_is_not_better_is_said_to_be_so(tmp_path):
    inputs = make_inputs(tmp_path)
    evaluation = read_json(inputs.evaluation / "evaluation.json")
    evaluation["retrieval"]["chain"]["ndcg@10"] = 0.09
    gap = {"value": -0.0287, "low": -0.04, "high": -0.017}
    evaluation["intervals"]["ndcg@10_difference"]["item_knn"] = gap
    write_json(inputs.evaluation / "evaluation.json", evaluation)
    words = Page(build_report(inputs, tmp_path / "report").read_text(encoding="utf-8")).words
    assert "Not better than item-KNN: NDCG@10 −0.0287" in words
    assert "−24 %" in words


def test_latest_points_to_the_newest_run_by_a_relative_link(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_latest(tmp_path, tmp_path / name)
    assert (tmp_path / "latest").readlink() == Path("second")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "latest", "second"]
    moved = tmp_path.parent / f"{tmp_path.name}-moved"
    shutil.move(tmp_path, moved)
    assert (moved / "latest").resolve() == (moved / "second").resolve()


def test_latest_does_not_replace_a_folder(tmp_path):
    (tmp_path / "latest").mkdir()
    (tmp_path / "run").mkdir()
    with pytest.raises(LeanRecError, match="is not a link"):
        write_latest(tmp_path, tmp_path / "run")


def test_the_front_shows_every_recipe_in_triton_and_the_segments_of_those_measured(whole):
    words = " ".join(Page(whole[0]).words.split())
    for model in ("recommender", "ranker"):
        table = words.split(f"The {model} of each recipe in the real Triton")[1]
        assert table.count("ONNX Runtime's, bit for bit") >= 5
        for recipe in ("fp32", "fp16", "int8_tables", "int8_mlp", "int8", "int4, below the floor"):
            assert recipe in table
    assert words.count("ONNX Runtime's, bit for bit") == 2 * 5
    assert words.count("not measured: compression.shortlist names fewer") == 2
    assert "cold users" in words and "0.123 · 0.751" in words and "– · –" in words
    assert "Log loss and calibration error by segment" in words and "0.587 · 0.046" in words


def test_a_recipe_that_test_set_aside_is_told_with_what_is_released_in_its_place(tmp_path):
    inputs = make_inputs(tmp_path)
    front = read_json(inputs.compressed / "front.json")
    why = "on test AUC falls by 0.0031 (95 % interval 0.0012 to 0.0050), floor 0.0010"
    for row in front["candidates"]:
        if row["recipe"] != "fp32":
            row.update(within_floor=False, why_not=why)
    reason = f"no recipe is within the quality floor; preferred on valid, and set aside: int8 ({why})"
    front.update(chosen="fp32", set_aside=["int8"], reason=reason)
    write_json(inputs.compressed / "front.json", front)
    path = build_report(inputs, tmp_path / "out")
    words = " ".join(Page(path.read_text(encoding="utf-8")).words.split())
    assert f"fp32 was chosen: {reason}" in words
    assert "fp32, chosen" in words and "int8, set aside" in words and "int4, set aside" not in words
    assert "uncompressed: no recipe is within the quality floor" in words


def test_what_tuning_measured_is_shown(whole_run, tmp_path):
    row = {
        "instances": 2, "threads": 1, "batch_size": 0, "queue_delay_us": None, "rounds": 6, "ratio": 0.81,
        "p50": 3.1, "p95": 5.2, "p99": 9.9, "requests_per_s": 1234.0,
    }  # fmt: skip
    found = {"reason": "p95 at 4 callers is 0.81 times that of the present configuration", "tried": [row]}
    tuning = {"version": 1, "cores": 2, "load": {"callers": 4}, "models": {"recommender": found}}
    repository = tmp_path / "models"
    write_json(repository / "release.json", {"stable": 1, "versions": [1], "history": []})
    write_json(repository / "tuning.json", tuning)
    release = write_release(tmp_path / "release.json", repository)
    text = build_report(replace(whole_run, release=release), tmp_path / "out").read_text(encoding="utf-8")
    words = " ".join(Page(text).words.split())
    assert "p95 at 4 callers is 0.81 times" in words and "1,234" in words and "not merged" in words


def write_release(path: Path, repository: Path) -> Path:
    write_json(path, {"name": "tiny", "version": 1, "repository": str(repository)})
    return path


def test_what_is_new_since_the_last_release_is_held_against_the_rest(whole_run, tmp_path):
    signal = {
        "name": "rating", "value": 0.3124, "bound": 0.1, "chance": 0.02, "num_reference": 90_000,
        "num_new": 1_234, "drifted": True,
    }  # fmt: skip
    found = {
        "retrain": True, "reason": "drift since release 6: rating", "newest": 6, "num_new": 5_678,
        "num_new_acts": 1_234, "signals": [signal], "feedback": {"num_unknown_items": 3},
    }  # fmt: skip
    write_json(tmp_path / "drift" / "drift.json", found)
    path = build_report(replace(whole_run, drift=tmp_path / "drift"), tmp_path / "out")
    words = " ".join(Page(path.read_text(encoding="utf-8")).words.split())
    assert "What is new since release 6" in words
    assert "5,678 events in the log, 1,234 of them ratings or clicks. Trained: drift since release 6" in words
    assert "Set aside: 3 on items" in words and "rating0.3120.1000.0201,23490,000yes" in words
    assert read_json(tmp_path / "out" / "report.json")["drift"]["newest"] == 6


def test_a_first_release_has_nothing_that_is_new(whole_run, tmp_path):
    found = {"retrain": True, "reason": "there is no release yet", "newest": None, "signals": []}
    write_json(tmp_path / "drift" / "drift.json", found)
    path = build_report(replace(whole_run, drift=tmp_path / "drift"), tmp_path / "out")
    assert "What is new since" not in path.read_text(encoding="utf-8")


def test_a_warm_start_and_a_full_training_stand_side_by_side(tmp_path):
    inputs = make_inputs(tmp_path)
    build_report(inputs, tmp_path)
    assert "Trained from the release" not in (tmp_path / "report.html").read_text()

    write_json(tmp_path / "model" / "starts.json", starts())
    build_report(inputs, tmp_path)
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert (
        "The model trained from the release goes on: full training is not better beyond doubt" in page.words
    )
    assert "NDCG@10 on the test split: training from nothing is not to be told apart from" in page.words
    assert (
        "AUC on the test split: training from nothing is better than training from the release" in page.words
    )
    assert "2.5 × as long" in page.words
    for figure in ("0.1320", "0.1360", "0.5662", "20 + 3", "60"):
        assert figure in page.words
    assert read_json(tmp_path / "report.json")["starts"]["chosen"] == "warm"
