"""Tuning a real release in the real Triton: what was chosen is what is configured."""

from __future__ import annotations

import pytest
from tiny_release import write_artifacts
from typer.testing import CliRunner

from leanrec.cli import app
from leanrec.config import ReleaseSettings, TuningSettings
from leanrec.errors import ReleaseError
from leanrec.files import read_json
from leanrec.release.publish import publish_release
from leanrec.release.repository import ModelRepository
from leanrec.release.tuning import Tuned, tune_serving
from leanrec.schema import RECOMMENDER

pytestmark = pytest.mark.integration

QUICK = TuningSettings(
    callers=2, rounds=2, requests=20, instances=(1,), threads=(1,), batch_sizes=(0,), queue_delays_us=(0, 200)
)


def test_the_configuration_that_was_chosen_is_the_one_that_serves(tmp_path):
    settings = ReleaseSettings(repository=str(tmp_path / "models"))
    artifacts = write_artifacts(tmp_path)
    publish_release(settings, name="tiny", **artifacts, lineage={}, output=tmp_path / "release.json")
    report = tune_serving(settings, QUICK)
    assert report == read_json(tmp_path / "models" / "tuning.json")
    found = report["models"][RECOMMENDER]
    configuration = ModelRepository(tmp_path / "models").configuration(RECOMMENDER)
    assert Tuned.of(configuration) == Tuned(**found["chosen"])
    assert configuration.versions == (1,)
    assert found["changed"] is (found["ratio"] < 1)
    for row in found["tried"]:
        assert 0 < row["p50"] <= row["p95"] <= row["p99"] and row["rounds"] in (1, 2)
    assert ModelRepository(tmp_path / "models").is_settled()


def test_a_repository_without_a_release_is_named(tmp_path):
    with pytest.raises(ReleaseError, match="it holds no release"):
        tune_serving(ReleaseSettings(repository=str(tmp_path)), QUICK)
    assert "--json" in CliRunner().invoke(app, ["release", "tune", "--help"]).stdout
