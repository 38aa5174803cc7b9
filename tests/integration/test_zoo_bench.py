"""The configured model beside others of the zoo, on the data of a run."""

from pathlib import Path

import pytest
import yaml
from tiny_workspace import make_workspace

from benchmarks import zoo
from leanrec.config import RunSettings, TrainingSettings
from leanrec.config.zoo import RANKERS, RETRIEVERS
from leanrec.errors import ConfigError
from leanrec.files import write_json

pytestmark = pytest.mark.integration


def test_every_other_model_stands_in_once_with_defaults_of_its_own() -> None:
    training = TrainingSettings.parse({"retriever": {"model": "gru4rec", "epochs": 99}})
    found = zoo.others(training)
    assert len(found) == len(RETRIEVERS) + len(RANKERS) - 2
    assert ("retriever", "gru4rec") not in found and ("ranker", "dcn_v2") not in found
    other = zoo.with_model(training, "retriever", "sasrec")
    assert (other.retriever.model, other.retriever.epochs) == ("sasrec", 20)
    assert other.ranker == training.ranker
    assert zoo.others(training, ["dlrm", "als"]) == [("retriever", "als"), ("ranker", "dlrm")]
    with pytest.raises(ConfigError, match=r"--only 'sassrec' is no model .* did you mean 'sasrec'"):
        zoo.others(training, ["als", "sassrec"])


def test_the_figures_are_of_models_trained_on_the_run_s_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_workspace(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(zoo, "RETRIEVERS", ("popularity",))
    monkeypatch.setattr(zoo, "RANKERS", ())
    settings = RunSettings.parse(yaml.safe_load(config.read_text()))
    write_json(tmp_path / "run" / "settings.json", settings.model_dump(mode="json"))
    found = zoo.measure(tmp_path / "stores", tmp_path / "run")
    (row,) = found["models"]
    assert (row["part"], row["model"]) == ("retriever", "popularity")
    assert found["baseline"] == row["test"] and 0 < row["test"] < 1 and 0 < found["ours"] < 1
    assert found["ratio"] == pytest.approx(found["ours"] / row["test"])
    assert row["ours_more"]["value"] == pytest.approx(found["ours"] - row["test"])
