"""The reloader's decisions, against a Triton made by hand that notes what it is told."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_for

from leanrec.errors import ServingError
from leanrec.release.routing import CANDIDATES
from serving.reloader import CANDIDATE, Reloader, configured_models, models_to_start_with


class Triton:
    """Lists what it was told to load; refuses to load those in `broken`, to unload those in `stuck`."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.broken: set[str] = set()
        self.stuck: set[str] = set()
        self.fault: Exception | None = None
        self.reports: list[tuple[dict[str, list[int]] | None, str | None]] = []

    def ask(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if self.fault:
            raise self.fault
        if path.endswith("/index"):
            names = configured_models(self.repository)
            return 200, [{"name": name, "version": "1", "state": "READY"} for name in names]
        name = path.split("/")[-2]
        if path.endswith("/unload"):
            self.unloads.append(name)
            return (400, {"error": "in use"}) if name in self.stuck else (200, None)
        self.loads.append(name)
        return (400, {"error": "no graph"}) if name in self.broken else (200, None)

    def report(self, models: dict[str, list[int]] | None, problem: str | None) -> None:
        self.reports.append((models, problem))


def write(repository: Path, release: str, **configurations: str) -> None:
    for name, text in configurations.items():
        (repository / name).mkdir(parents=True, exist_ok=True)
        (repository / name / "config.pbtxt").write_text(text)
    (repository / "release.json").write_text(release)


@pytest.fixture
def triton(tmp_path: Path) -> Triton:
    write(tmp_path, "1", ranker="a", recommender="a")
    return Triton(tmp_path)


@pytest.fixture
def reloader(triton: Triton) -> Iterator[Reloader]:
    reloader = Reloader(triton.repository, triton.ask, triton.report)
    reloader.check_started()
    reloader.start()
    yield reloader
    reloader.stop()


def test_only_models_whose_configuration_changed_are_loaded(reloader: Reloader, triton: Triton) -> None:
    write(triton.repository, "2", recommender="b")
    wait_for(lambda: len(triton.reports) == 2)
    assert triton.loads == ["recommender"]
    assert triton.reports == [({"ranker": [1], "recommender": [1]}, None)] * 2


def test_a_refused_model_keeps_the_rest_of_its_release_out_and_is_reported(
    reloader: Reloader, triton: Triton
) -> None:
    triton.broken = {"ranker"}
    write(triton.repository, "2", recommender="b", ranker="b")
    wait_for(lambda: any(problem for _, problem in triton.reports))
    assert "recommender" not in triton.loads[triton.loads.index("ranker") :]
    problem = next(problem for _, problem in triton.reports if problem)
    assert problem.startswith("model ranker was not loaded, the older version goes on serving: no graph")


@pytest.mark.parametrize("fault", [ConnectionRefusedError("refused"), ValueError("no JSON")])
def test_a_triton_that_does_not_answer_is_asked_again(
    reloader: Reloader, triton: Triton, fault: Exception
) -> None:
    triton.fault = fault
    write(triton.repository, "2", ranker="b")
    wait_for(lambda: len(triton.reports) > 2)
    assert triton.reports[-1][0] is None
    triton.fault = None
    wait_for(lambda: triton.reports[-1] == ({"ranker": [1], "recommender": [1]}, None))
    assert "ranker" in triton.loads


def test_a_model_that_was_not_loaded_fails_the_start_with_its_reason(tmp_path: Path) -> None:
    write(tmp_path, "1", ranker="a")
    index = [{"name": "ranker", "version": "2", "state": "UNAVAILABLE", "reason": "no graph"}]
    reloader = Reloader(tmp_path, lambda *_: (200, index), lambda *_: None)
    with pytest.raises(ServingError, match=r"model ranker cannot be served.*version 2: no graph"):
        reloader.check_started()


def test_what_changes_while_triton_starts_is_loaded_before_it_is_announced(triton: Triton) -> None:
    reloader = Reloader(triton.repository, triton.ask, triton.report)
    write(triton.repository, "2", recommender="b")
    reloader.check_started()
    assert triton.loads == ["recommender"]
    assert triton.reports == [({"ranker": [1], "recommender": [1]}, None)]


def test_a_broken_candidate_is_a_problem_at_the_start_and_keeps_no_other_release_out(
    triton: Triton, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.reloader.FIRST_PAUSE_S", 0.01)
    write(triton.repository, "2", ranker_candidate="a", recommender_candidate="a")
    assert models_to_start_with(triton.repository) == ["ranker", "recommender"]
    triton.broken = {"ranker_candidate"}
    reloader = Reloader(triton.repository, triton.ask, triton.report)
    reloader.check_started()
    assert triton.loads == ["ranker_candidate"]
    assert triton.reports[-1][1] == (
        "model ranker_candidate was not loaded, the stable release answers in its place: no graph"
    )
    reloader.start()
    try:
        write(triton.repository, "3", ranker="b", recommender="b")
        wait_for(lambda: {"ranker", "recommender"} <= set(triton.loads))
        triton.broken = set()
        wait_for(lambda: triton.reports[-1][1] is None)
        assert triton.loads[-1] == "recommender_candidate"
    finally:
        reloader.stop()


def test_candidates_are_known_by_the_names_that_releases_give_them() -> None:
    assert all(name.endswith(CANDIDATE) for name in CANDIDATES.values())


def test_hidden_folders_are_no_models(tmp_path: Path) -> None:
    write(tmp_path, "1", ranker="a", **{".staging": "a"})
    (tmp_path / "notes").mkdir()
    assert configured_models(tmp_path) == ["ranker"]


def test_a_model_whose_folder_went_away_is_unloaded_after_the_others_are_loaded(
    triton: Triton, reloader: Reloader
) -> None:
    write(triton.repository, "2", recommender_candidate="a")
    wait_for(lambda: triton.loads == ["recommender_candidate"])
    assert triton.unloads == []
    shutil.rmtree(triton.repository / "recommender_candidate")
    write(triton.repository, "3", recommender="b")
    wait_for(lambda: triton.unloads == ["recommender_candidate"])
    assert triton.loads[-1] == "recommender"


def test_what_was_refused_is_tried_again_without_a_change_of_the_files(
    triton: Triton, reloader: Reloader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.reloader.FIRST_PAUSE_S", 0.01)
    triton.broken = {"ranker"}
    write(triton.repository, "2", ranker="b")
    wait_for(lambda: triton.loads.count("ranker") > 2)
    triton.broken = set()
    wait_for(lambda: triton.reports[-1] == ({"ranker": [1], "recommender": [1]}, None))
    told = len(triton.loads)
    write(triton.repository, "3", recommender="b")
    wait_for(lambda: "recommender" in triton.loads)
    assert triton.loads[told:] == ["recommender"]


def test_an_unload_that_is_refused_is_reported_and_tried_again(
    triton: Triton, reloader: Reloader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.reloader.FIRST_PAUSE_S", 0.01)
    write(triton.repository, "2", recommender_candidate="a")
    wait_for(lambda: triton.loads == ["recommender_candidate"])
    triton.stuck = {"recommender_candidate"}
    shutil.rmtree(triton.repository / "recommender_candidate")
    wait_for(lambda: len(triton.unloads) > 1)
    problems = [problem for _, problem in triton.reports if problem]
    assert problems[0] == "model recommender_candidate, whose folder is gone, was not unloaded: in use"
    triton.stuck = set()
    wait_for(lambda: triton.reports[-1][1] is None)
